"""Commands that people are advised to run next."""

import shlex


def command(*words: object) -> str:
    """A `gemkit` command as it can be pasted into a shell, whatever its paths are called."""
    return shlex.join(["gemkit", *map(str, words)])
