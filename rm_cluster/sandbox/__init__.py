"""stub"""


def evaluate_config():
    return {}
