"""What the agent refused, as the error class of who must act."""

import errno
import os

from faas.errors import (
    AlreadyExistsError,
    FaasError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    PortClosedError,
    ResourceExhaustedError,
    TooLargeError,
    UnsupportedError,
    WrongStateError,
)

_CLASSES: dict[int, type[FaasError]] = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: AlreadyExistsError,
    errno.EINVAL: InvalidArgumentError,
    errno.ENAMETOOLONG: InvalidArgumentError,
    errno.ELOOP: InvalidArgumentError,
    errno.ENOTDIR: InvalidArgumentError,
    errno.EISDIR: InvalidArgumentError,
    errno.EXDEV: InvalidArgumentError,
    errno.ENOTEMPTY: WrongStateError,
    errno.EPIPE: WrongStateError,
    errno.ESRCH: WrongStateError,
    errno.EBUSY: WrongStateError,
    errno.ENOTTY: WrongStateError,
    errno.ECONNREFUSED: PortClosedError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.ENOSPC: TooLargeError,
    errno.EFBIG: TooLargeError,
    errno.E2BIG: TooLargeError,
    errno.EAGAIN: ResourceExhaustedError,
    errno.EMFILE: ResourceExhaustedError,
    errno.ENFILE: ResourceExhaustedError,
    errno.ENOMEM: ResourceExhaustedError,
    errno.ENOSYS: UnsupportedError,
    errno.EOPNOTSUPP: UnsupportedError,
}


def refusal(number: int, what: str) -> FaasError:
    """Return the error that an ERROR frame stands for."""
    reason = os.strerror(number) if number in errno.errorcode else f"error {number}"
    details = {"errno": errno.errorcode.get(number, str(number))}
    return _CLASSES.get(number, InternalError)(f"{what}: {reason}", details=details)
