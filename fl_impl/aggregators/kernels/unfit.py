"""The one thing that a kernel can say beside its result."""


class Unfit(Exception):  # noqa: N818  # not an error of the caller's: it asks for screening and another call
    """The updates hold what the kernel cannot take, NaN or infinity: screen the rows, then call again."""
