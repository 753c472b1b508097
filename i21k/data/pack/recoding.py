"""Recode a batch of source files into the JPEGs that are stored; runs in the worker processes."""

import hashlib
from typing import NamedTuple

from i21k.data.sources.base import NO_IMAGE_NAME, Member, may_be_image
from i21k.errors import UserError
from i21k.images.recode import NOT_AN_IMAGE, Unreadable, recode_odd


class Recoded(NamedTuple):
    """The result for one file.

    `member` carries the stored JPEG instead of the bytes that were read, or the reason why the
    file is skipped.
    """

    member: Member
    digest: bytes  # SHA-256 of the bytes that were read
    oddity: str = ""  # what was odd about an image that is stored anyway


def recode_batch(
    batch: list[Member], short_side_px: int, quality: int, min_side_px: int, strict: bool = False
) -> list[Recoded]:
    """Recode a batch of files, and note the reason for each that is skipped.

    Raises:
        UserError: if the container of a file can no longer be read; that is not the file's fault.
    """

    def recoded(member: Member) -> Recoded:
        data, digest, oddity = b"", b"", ""
        if not member.skipped:
            try:
                content = member.content()
                digest = hashlib.sha256(content).digest()
                data, oddity = recode_odd(
                    content, short_side_px, quality, min_side_px, strict=strict
                )
            except Unreadable as error:
                is_sidecar = str(error) == NOT_AN_IMAGE and not may_be_image(member.name)
                member = member._replace(skipped=NO_IMAGE_NAME if is_sidecar else str(error))
            except OSError as error:
                raise UserError(
                    f"{member.container}, {member.name} can no longer be read "
                    f"({error.strerror or error}). Give the same command again when the source is "
                    "back; it resumes where it stopped."
                ) from error
        return Recoded(member._replace(data=data, extent=None), digest, oddity)

    return [recoded(member) for member in batch]
