"""What the nodes of a cell can compute: the one place to touch to add an operation.

Every operation is a depthwise convolution (unless its kernel is 1), then a 1x1 convolution to the
cell's width; batch norm and ReLU follow each. The network, the walk over its layers, the cost
model, sampling, mutation, latency prediction and the drawings all read this table. Two operations
of this form are the paper's: `conv1x1` and `sep3x3`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """One convolution of an operation, with its batch norm and ReLU.

    Attributes:
        kernel: its side, an odd number.
        is_depthwise: whether it filters each channel alone; otherwise it leads to the cell's width.
    """

    kernel: int = 1
    is_depthwise: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: as in cell files.
        label: as people read it.
        colour: of its nodes in drawings, `#rrggbb`; white text stands on it.
        kernel: side of the depthwise convolution before the 1x1 convolution, an odd number; 1 where
            there is none.
    """

    name: str
    label: str
    colour: str
    kernel: int = 1

    @property
    def is_separable(self) -> bool:
        """Whether there is a depthwise convolution."""
        return self.kernel > 1

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """What it consists of, in order."""
        depthwise = (Convolution(self.kernel, is_depthwise=True),) if self.is_separable else ()
        return (*depthwise, Convolution())


TABLE = (
    Operation("conv1x1", "1×1 convolution", "#2f74c0"),
    Operation("sep3x3", "3×3 separable convolution", "#e07b39", kernel=3),
)
"""All operations. Their order decides their codes, so new ones come last."""

BY_NAME = {operation.name: operation for operation in TABLE}
"""The operations of TABLE by name."""

KERNELS = tuple(sorted({operation.kernel for operation in TABLE if operation.is_separable}))
"""The sides of depthwise convolutions that occur."""


def codes_of(kernel: int) -> tuple[int, ...]:
    """Codes (`gemkit.cell.OPERATIONS`) of the operations with a kernel; 0 is the cell input's."""
    return tuple(code for code, one in enumerate(TABLE, start=1) if one.kernel == kernel)
