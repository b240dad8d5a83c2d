"""README and docs: every link leads somewhere, every block of code is true or says what it needs.

A block is run by a test, which a comment before it names, or `spot` knows its commands, flags,
settings and files; a comment `needs ...` says what a machine without it cannot do. Python blocks
parse, and what they import exists. Blocks that are no code are `text`.
"""

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import spot_jax
from spot_jax.cli.gin_checks import T5X_NAMES
from spot_jax.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from docs_site import links, pages  # noqa: E402

# Their blocks are what the code says, which other tests compare.
MADE = {"api.md": "tests/test_api_page.py", "tasks.md": "tests/tasks/test_document.py"}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
COMMENT = re.compile(r"<!-- (run by|needs) (.+?) -->")
# Words that begin a line of the shell other than `spot`.
OTHERS = {"make", "pip", "python", "python3", "curl", "echo", "for", "done", ".", "gcloud"}
OTHERS |= {"tfds", "seqio_cache_tasks", "export", "ray"}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    text = BLOCK.sub("", page.read_text())
    words = (m[1] for m in re.finditer(r"^#+ (.*)$", text, re.M))
    plain = (re.sub(r"[^\w\s-]", "", word.lower()).strip() for word in words)
    return {re.sub(r"[-\s]+", "-", word) for word in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for file, anchor in links(page):
        assert file.exists(), f"{page.name} links to {file}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name} links to {file.name}#{anchor}"


def blocks():
    for page in pages():
        if page.name in MADE:
            assert (ROOT / MADE[page.name]).exists()
            continue
        text = page.read_text()
        for match in BLOCK.finditer(text):
            before = "\n".join(text[: match.start()].rstrip("\n").splitlines()[-3:])
            line = text[: match.start()].count("\n") + 1
            yield pytest.param(match[1], match[2], before, id=f"{page.name}:{line}")


def commands(text):
    """The shell's commands of a block, comments left out, each as its words."""
    waiting = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        waiting += line + "\n"
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        waiting = ""
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            yield words[:end]
            words = words[end + 1 :]


@pytest.fixture(scope="module")
def help_of():
    """The help of a command, asked for once."""
    texts = {}

    def of(words, capsys):
        if words not in texts:
            capsys.readouterr()
            try:
                main([*words, "--help"])
            except SystemExit as end:
                assert not end.code, f"spot {' '.join(words)} has no help"
            texts[words] = capsys.readouterr().out
        return texts[words]

    return of


def check_spot(words, help_of, capsys):
    """A `spot` command's verbs, flags, files and gin settings exist."""
    verbs = [words[0]]
    assert words[0] in VERBS, f"there is no spot {words[0]}"
    group = {"prompts", "intrinsic", "tasks", "data"} & {words[0]}
    if group and len(words) > 1 and not words[1].startswith("-"):
        verbs.append(words[1])
    text = help_of(tuple(verbs), capsys)
    gin = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    files = "".join(gin_text(ROOT / name) for name in gin if name.startswith(("gin_", "examples")))
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--gin."):
            last = flag.removeprefix("--gin.").rpartition(".")[2]
            is_set = last in files if files else last.isidentifier()
            assert is_set or "." in flag.removeprefix("--gin."), f"{gin} has no {flag}"
        elif flag.startswith("--"):
            assert re.search(rf"{flag}\b", text), f"spot {' '.join(verbs)} has no {flag}"
        for name in (word, value):
            if name.startswith(("gin_configs/", "backbones/mini", "tasks/", "examples/")):
                assert (ROOT / name).exists(), name


def gin_text(path):
    """A gin file with all that it includes."""
    text = path.read_text()
    included = re.findall(r"^include '(.+)'", text, re.M)
    places = (ROOT / name if (ROOT / name).exists() else path.parent / name for name in included)
    return text + "".join(gin_text(place) for place in places)


@pytest.mark.parametrize(("kind", "text", "before"), list(blocks()))
def test_every_block_of_code_is_run_or_true_as_far_as_it_can_be_read(
    kind, text, before, help_of, capsys
):
    if kind == "text":
        return
    comment = COMMENT.search(before)
    assert comment, "no comment says which test runs this block, or what it needs"
    for test in re.findall(r"tests/[\w/]+\.py", comment[2]):
        assert (ROOT / test).exists(), test
    assert comment[1] == "needs" or "tests/" in comment[2]
    if kind == "python":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("spot_jax"):
                source = (ROOT / f"{node.module.replace('.', '/')}.py").read_text()
                for name in node.names:
                    assert re.search(rf"^(def |class )?{name.name}\b", source, re.M), name.name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "spot" or node.attr in spot_jax.__all__, node.attr
        return
    assert kind == "", f"a block is python, text, or the shell's without a word, not {kind}"
    for words in commands(text):
        while words and (words[0] == "do" or re.match(r"[A-Z]+=", words[0])):
            words = words[1:]
        if words[:1] == ["spot"]:
            check_spot(words[1:], help_of, capsys)
        elif words[:2] == ["python", "-m"] and words[2].startswith("spot_jax."):
            check_spot([words[2].rpartition(".")[2], *words[3:]], help_of, capsys)
        elif words:
            assert words[0] in OTHERS, f"{words[0]} is no command"


def test_the_table_of_t5x_s_names_is_what_the_command_line_answers():
    text = (ROOT / "docs" / "t5x.md").read_text()
    table = dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.M))
    assert table == T5X_NAMES


def test_requirements_are_those_of_the_base_and_of_its_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = {*project["dependencies"], *extras["seqio"], *extras["report"], *extras["serve"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == expected
