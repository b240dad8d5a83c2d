"""Invented rows of the sets that come as files, as `tasks.papers.samples` has them of TFDS's."""

ROWS: dict[str, dict[str, str]] = {
    "cxc": {
        "sentence1": "A man rides a bicycle past a shop.",
        "sentence2": "A cyclist passes a store.",
        "score": "4.11",
    },
    "cr": {"sentence": "the battery lasts for two days .", "label": "positive"},
    "alpha_nli": {
        "obs1": "Ann left her window open at night.",
        "obs2": "In the morning the carpet was wet.",
        "hyp1": "It rained in the night.",
        "hyp2": "It was a dry night.",
        "label": "1",
    },
    "social_i_qa": {
        "context": "Sam lent Kai his umbrella.",
        "question": "How would Kai feel?",
        "answerA": "cross",
        "answerB": "thankful",
        "answerC": "wet",
        "label": "2",
    },
}
CROSSFIT = "sentence: Ann reads.\tacceptable\n"
LAMA = {
    "template": "[X] is located in [Y] .",
    "sub_label": "Lyon",
    "obj_label": "France",
}
