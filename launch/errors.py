"""What ends a command: one message that says what, where, why and what to do."""


class LaunchError(Exception):
    """Stopped; ``exit_status`` is 2 if the user must fix something first, 1 if the same command may work later."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Away(LaunchError):
    """AWS has no capacity, took the machine back or did not answer in time: the same command goes on later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_status=1)
