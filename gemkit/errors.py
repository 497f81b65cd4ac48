"""The one kind of error that is a person's to mend."""

_LONGEST = 900
"""Characters of a sentence; of a longer one the middle is left out."""


class UserError(Exception):
    """Bad input, said in one sentence: what is wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2. Every other exception is a fault
    of gemkit's own and keeps its traceback.
    """

    def __str__(self) -> str:
        sentence = super().__str__()
        if len(sentence) > _LONGEST:  # a damaged file's value may be of any length
            return f"{sentence[: _LONGEST - 210]} ... {sentence[-200:]}"
        return sentence
