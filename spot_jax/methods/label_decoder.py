"""Y-Tuning's label decoder: labels attend to one another and to a text, and point at the answer.

Liu, An & Qiu 2022. The abstract says that label representations are learnt and aligned with fixed
features of the text; the rest is known to us at second hand only, so sizes, norms and
initialisation are ours (docs/y_tuning.md says which).

Functions over one run's weights; `YTuning` maps them over runs. Shapes: b batch, r label vectors
with the task's in front, t tokens, l layers of features, d width, h heads, k = d / h.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from spot_jax.errors import SpotError

Weights = dict[str, Any]
EPSILON = 1e-6
_SELF_MATRICES = ("self_query", "self_key", "self_value", "self_out")
_CROSS_MATRICES = ("cross_query", "cross_key", "cross_value", "cross_out")
_SELF, _CROSS, _MLP = range(3)  # rows of a layer's norms


@dataclasses.dataclass(frozen=True)
class LabelDecoder:
    """The decoder's shape.

    Attributes:
        width: d, that of the features.
        classes: C, labels.
        per_label: V, vectors a label.
        layers: L.
        heads: h.
        mlp_dim: width within the feed-forward layers.
        mixed: layers of features whose mix is learnt; 1 for the last layer alone.
        score: "dot" or "cosine", between the task's vector and a label's.
        scale: factor on it; None for d ** -0.5 with "dot" and 1 with "cosine".
        reduce: "max" or "mean" over a label's vectors.
    """

    width: int
    classes: int
    per_label: int = 1
    layers: int = 1
    heads: int = 4
    mlp_dim: int = 256
    mixed: int = 1
    score: str = "dot"
    scale: float | None = None
    reduce: str = "max"

    def __post_init__(self) -> None:
        sizes = {n: getattr(self, n) for n in ("per_label", "layers", "heads", "mlp_dim")}
        for name, size in sizes.items():
            if size < 1:
                raise SpotError(f"a label decoder's {name} is at least 1, found {size}")
        if self.width % self.heads:
            raise SpotError(
                f"the features' width {self.width} cannot be divided over {self.heads} heads; "
                "choose a number of heads that divides it"
            )
        if self.score not in ("dot", "cosine"):
            raise SpotError(f"expected the score 'dot' or 'cosine', found {self.score!r}")
        if self.reduce not in ("max", "mean"):
            raise SpotError(f"expected to reduce by 'max' or 'mean', found {self.reduce!r}")

    @property
    def rows(self) -> int:
        """r = 1 + C V: the task's vector, then each label's in turn."""
        return 1 + self.classes * self.per_label

    @property
    def size(self) -> int:
        """Number of trained numbers: r d + L (8 d² + 2 d f + 3 d) + d, and l for a mix."""
        d, f = self.width, self.mlp_dim
        layer = 8 * d * d + 2 * d * f + 3 * d
        return self.rows * d + self.layers * layer + d + (self.mixed if self.mixed > 1 else 0)

    def init(self, key: Key[Array, ""], labels: Float[Array, "r d"]) -> Weights:
        """Return weights around label vectors: matrices are normal with variance 1 / inputs.

        Norms and the mix are zeros, which stand for a scale of 1 and equal parts. Leaves have two
        axes: an optimizer that spares vectors from weight decay treats one run and many alike.
        """
        d, f = self.width, self.mlp_dim
        weights: Weights = {"labels": labels.astype(jnp.float32), "norm": jnp.zeros((1, d))}
        if self.mixed > 1:
            weights["mix"] = jnp.zeros((1, self.mixed))
        shapes = dict.fromkeys((*_SELF_MATRICES, *_CROSS_MATRICES), (d, d))
        shapes |= {"mlp_in": (d, f), "mlp_out": (f, d)}
        for i in range(self.layers):
            keys = jax.random.split(jax.random.fold_in(key, i), len(shapes))
            layer = {
                name: jax.random.normal(matrix_key, shape) * shape[0] ** -0.5
                for matrix_key, (name, shape) in zip(keys, shapes.items(), strict=True)
            }
            weights[f"layer_{i}"] = {**layer, "norms": jnp.zeros((3, d))}
        return weights

    def scores(
        self,
        weights: Weights,
        features: Float[Array, "b t l d"],
        mask: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
        dropout_rate: float = 0.0,
    ) -> Float[Array, "b c"]:
        """Return each label's score for each text.

        Args:
            weights: weights, as `init` returns them.
            features: encoder's features of the texts' tokens.
            mask: True at tokens, False at padding.
            key: key of the dropout on what cross-attention and feed-forward add; None for none.
            dropout_rate: probability of dropping.
        """
        text = self.mixture(weights, features)
        x = weights["labels"][None]  # the batch's axis is 1 until a text has been looked at
        for i in range(self.layers):
            drop = None if key is None else jax.random.fold_in(key, i)
            x = self._layer(weights[f"layer_{i}"], x, text, mask, drop, dropout_rate)
        return self._pointed(_norm(x, weights["norm"][0]))

    def mixture(self, weights: Weights, features: Float[Array, "b t l d"]) -> Float[Array, "b t d"]:
        """Return a vector a token: the last layer's, or the layers' mean by softmax weights."""
        features = features.astype(jnp.float32)
        if self.mixed == 1:
            return features[:, :, 0]
        parts = jax.nn.softmax(weights["mix"][0])
        return jnp.einsum("btld,l->btd", features, parts)

    def _layer(
        self,
        weights: Weights,
        x: Float[Array, "n r d"],
        text: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        key: Key[Array, ""] | None,
        rate: float,
    ) -> Float[Array, "b r d"]:
        """Self-attention, cross-attention and feed-forward, each normed before, added after."""
        norms = weights["norms"]
        x = x + self._self_attention(weights, _norm(x, norms[_SELF]))
        read = self._cross_attention(weights, _norm(x, norms[_CROSS]), text, mask)
        x = x + _dropped(read, key, rate, 0)
        hidden = jax.nn.gelu(_norm(x, norms[_MLP]) @ weights["mlp_in"])
        return x + _dropped(hidden @ weights["mlp_out"], key, rate, 1)

    def _heads(self, x: Float[Array, "b s d"]) -> Float[Array, "b s h k"]:
        return x.reshape(*x.shape[:2], self.heads, -1)

    def _self_attention(self, weights: Weights, x: Float[Array, "b r d"]) -> Float[Array, "b r d"]:
        query, key, value = (self._heads(x @ weights[n]) for n in _SELF_MATRICES[:3])
        logits = jnp.einsum("bqhk,bshk->bhqs", query, key) * query.shape[-1] ** -0.5
        read = jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(logits), value)
        return read.reshape(x.shape) @ weights["self_out"]

    def _cross_attention(
        self,
        weights: Weights,
        x: Float[Array, "n r d"],
        text: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
    ) -> Float[Array, "b r d"]:
        """Let labels read the text; n is 1 where all texts still have the same labels.

        A key's product with a query is the text's with the query times the key's matrix. Few
        labels have fewer queries than a text has tokens, so it is the queries that are multiplied,
        and the weighted sums of the text instead of its values; many labels go the usual way.
        """
        b, t, d = text.shape
        r, h = x.shape[1], self.heads
        matrices = {n: weights[f"cross_{n}"].reshape(d, h, d // h) for n in ("key", "value")}
        query = self._heads(x @ weights["cross_query"]) * (d // h) ** -0.5
        few = r * (t * (h - 1) + d) < t * d
        if few:
            wide = jnp.einsum("nrhk,dhk->nhrd", query, matrices["key"])
            logits = _products(wide.reshape(-1, h * r, d), text)
        else:
            key = jnp.einsum("btd,dhk->bthk", text, matrices["key"])
            query = jnp.broadcast_to(query, (b, *query.shape[1:]))
            logits = jnp.einsum("brhk,bthk->bhrt", query, key).reshape(b, h * r, t)
        logits = jnp.where(mask[:, None, :], logits, -1e9)
        parts = jax.nn.softmax(logits)
        if few:
            sums = jnp.einsum("bqt,btd->bqd", parts, text).reshape(b, h, r, d)
            read = jnp.einsum("bhrd,dhk->brhk", sums, matrices["value"])
        else:
            value = jnp.einsum("btd,dhk->bthk", text, matrices["value"])
            read = jnp.einsum("bhrt,bthk->brhk", parts.reshape(b, h, r, t), value)
        return read.reshape(b, r, d) @ weights["cross_out"]

    def _pointed(self, x: Float[Array, "b r d"]) -> Float[Array, "b c"]:
        """Score every label by the task's vector, its several vectors reduced to one score."""
        scale = self.scale
        if self.score == "cosine":
            x = x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON)
        elif scale is None:
            scale = self.width**-0.5
        labels = x[:, 1:].reshape(-1, self.classes, self.per_label, self.width)
        scores = jnp.einsum("bd,bcvd->bcv", x[:, 0], labels) * (1.0 if scale is None else scale)
        return scores.max(axis=-1) if self.reduce == "max" else scores.mean(axis=-1)


def _products(queries: Float[Array, "n q d"], text: Float[Array, "b t d"]) -> Array:
    """Return [b, q, t] products, of one matrix product where all texts have the same queries."""
    if queries.shape[0] == 1 and text.shape[0] > 1:
        return jnp.einsum("qd,btd->bqt", queries[0], text)
    return jnp.einsum("bqd,btd->bqt", queries, text)


def _norm(x: Float[Array, "b r d"], offset: Float[Array, " d"]) -> Float[Array, "b r d"]:
    """Unit root mean square, times 1 + offset."""
    size = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON)
    return x * size * (1.0 + offset)[None, None]


def _dropped(x: Float[Array, "b r d"], key: Key[Array, ""] | None, rate: float, site: int) -> Array:
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


def triplet_losses(scores: Float[Array, "b c"], gold: Array, margin: float) -> Float[Array, " b"]:
    """Return (1 / C) sum over labels c other than the gold g of max(0, margin - s_g + s_c).

    As reconstructed from accounts of the paper; there s is the product of the task's vector and
    the label's, and neither the factor 1 / C nor the margin is certain.
    """
    right = jnp.take_along_axis(scores, gold[:, None], axis=1)
    classes = scores.shape[1]
    other = gold[:, None] != jnp.arange(classes)[None]
    return jnp.sum(jnp.where(other, jax.nn.relu(margin - right + scores), 0.0), axis=1) / classes


def cross_entropies(scores: Float[Array, "b c"], gold: Array) -> Float[Array, " b"]:
    """Return -log softmax(scores)[gold]."""
    right = jnp.take_along_axis(scores, gold[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(scores, axis=1) - right
