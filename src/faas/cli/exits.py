"""Exit codes of the command line, by who must act; the same table as in `spec/errors.yaml`."""

from faas import errors

INTERRUPTED = 130
OUR_FAILURE_WHILE_RUNNING = 125
"""`faas run` exits with the command's code, so ours must be told apart, as docker does."""

_BY_CLASS: dict[type[errors.FaasError], int] = {
    errors.InvalidArgumentError: 2,
    errors.UnauthenticatedError: 3,
    errors.PermissionDeniedError: 3,
    errors.NotFoundError: 4,
    errors.ConflictError: 5,
    errors.TooLargeError: 2,
    errors.ResourceExhaustedError: 6,
    errors.UnsupportedError: 7,
    errors.UnavailableError: 8,
    errors.DeadlineExceededError: 9,
    errors.DataLossError: 10,
    errors.InternalError: 70,
}


def exit_code(failure: errors.FaasError) -> int:
    """Return the exit code of the nearest class that has one."""
    return next((_BY_CLASS[kind] for kind in type(failure).__mro__ if kind in _BY_CLASS), 70)
