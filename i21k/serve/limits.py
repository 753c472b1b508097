"""What one request, and all requests together, may use; and the errors that clients get."""

import dataclasses

from i21k.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of the server. The values are our choice.

    The largest number of pixels is that of the decoder (`i21k.images.decode.MAX_PIXELS`).
    """

    max_bytes: int = 20 << 20  # of one image file
    max_bytes_held: int = 256 << 20  # of the files of all requests together
    queue: int = 64  # requests in work or waiting; a further one gets an error at once
    timeout_s: float = 30.0  # from the last byte of an image to its answer
    upload_timeout_s: float = 60.0  # from the first byte of a request to the last of its image
    max_connections: int = 256
    idle_s: float = 20.0  # without a whole request, after which a connection is closed
    max_answers: int = 100
    max_expression: int = 500  # characters; the slowest expression of 500 takes about 2 s
    results: int = 256  # kept so that other views of an image can be requested

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UserError(f"{field.name} is {value}. Use a number above 0.")
        if self.max_bytes_held < self.max_bytes:
            raise UserError(
                f"max_bytes is {self.max_bytes:,} and max_bytes_held is {self.max_bytes_held:,}."
                " Use at most that for one image."
            )


class RequestError(Exception):
    """Why a request cannot be answered: a status of HTTP, a code for programs and a text."""

    def __init__(self, status: int, code: str, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.position = position  # in the expression of the request, from 0

    def to_json(self) -> dict[str, object]:
        """Return the body of the response."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.position is not None:
            error["position"] = self.position
        return {"error": error}
