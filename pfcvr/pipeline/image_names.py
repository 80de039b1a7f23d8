"""Which image a file means: people name images by id, by file name or by path."""

from collections.abc import Iterable, Iterator

from pfcvr.records import ImageRecord
from pfcvr.scratch import temporary_tables

TABLE = "CREATE TABLE name (name BLOB PRIMARY KEY, rank INTEGER, image_id TEXT, others INTEGER) WITHOUT ROWID"
# The best rank seen so far, the first image of that rank, and whether there are others of the same rank.
NOTE = """
UPDATE name SET rank = :rank,
    image_id = iif(rank IS :rank, image_id, :image_id),
    others = iif(rank IS :rank, others OR image_id <> :image_id, 0)
WHERE name = :name AND (rank IS NULL OR rank >= :rank)
"""


class ImageNames:
    """Finds the image behind each of ``wanted`` names in one pass over the images.

    A name may be the image_id, the path or its end (``images/0001/07.jpg``, ``0001/07.jpg``, ``07.jpg``), or
    ``<vehicle_id>_<stem>``; the extension may be left out. An image_id or a whole path wins over the other forms.
    Names are kept on disk: memory grows neither with them nor with the images.
    """

    def __init__(self, wanted: Iterable[str], images: Iterable[ImageRecord]) -> None:
        self._db = temporary_tables(TABLE)
        try:
            self._db.executemany("INSERT OR IGNORE INTO name (name) VALUES (?)", ((_stored(name),) for name in wanted))
            self._db.executemany(NOTE, (form for image in images for form in _forms(image)))
        except BaseException:
            self._db.close()
            raise

    def find(self, name: str) -> str | None:
        """The image_id that ``name`` means; None when no image, or more than one, has that name."""
        image_id, others = self._known(name)
        return None if others else image_id

    def is_ambiguous(self, name: str) -> bool:
        """Whether several images have ``name``."""
        return self._known(name)[1]

    def close(self) -> None:
        """Forget all names."""
        self._db.close()

    def _known(self, name: str) -> tuple[str | None, bool]:
        found = self._db.execute("SELECT image_id, others FROM name WHERE name = ?", (_stored(name),)).fetchone()
        return (found[0], bool(found[1])) if found is not None else (None, False)


def clean_name(name: str) -> str:
    """``name`` with forward slashes and without a leading ``./``."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _stored(name: str) -> bytes:
    """``name`` as it is compared; names of files may hold bytes that are no text."""
    return clean_name(name).encode(errors="surrogatepass")


def _forms(image: ImageRecord) -> Iterator[dict[str, bytes | str | int]]:
    """Every name of ``image`` with its rank, lowest first."""
    steps = image.path.split("/")
    before, _, after = steps[-1].rpartition(".")
    suffix = f".{after}" if before and after else ""
    tails = ["/".join(steps[start:]) for start in range(len(steps))]
    names = [
        *tails,
        *(tail.removesuffix(suffix) for tail in tails),
        f"{image.vehicle_id}_{steps[-1]}",
        f"{image.vehicle_id}_{steps[-1].removesuffix(suffix)}",
        f"{image.image_id}{suffix}",
    ]
    for rank, name in [(0, image.image_id), (1, image.path), *((2, name) for name in names)]:
        yield {"name": name.encode(errors="surrogatepass"), "rank": rank, "image_id": image.image_id}
