"""The one kind of error that is a person's to mend."""


class UserError(Exception):
    """Bad input, said in one sentence: what is wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2. Every other exception is a fault
    of gemkit's own and keeps its traceback.
    """
