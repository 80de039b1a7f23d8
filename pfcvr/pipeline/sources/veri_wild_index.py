"""What a VERI-Wild copy holds and says, joined in a temporary SQLite file so that memory stays flat."""

import hashlib
import re
from collections.abc import Iterable, Iterator

from pfcvr.pipeline.sources import SourceImage
from pfcvr.pipeline.sources.tree import FoundImage
from pfcvr.pipeline.sources.veri_wild_lists import InfoLine, ListLine
from pfcvr.records import Rejected
from pfcvr.scratch import temporary_tables

TABLES = """
CREATE TABLE file (path TEXT PRIMARY KEY, size INTEGER, in_images INTEGER, stem TEXT, image_id TEXT);
CREATE TABLE named (image_id TEXT PRIMARY KEY, stem TEXT, in_info INTEGER DEFAULT 0, list_camera TEXT,
                    camera TEXT, time TEXT, model TEXT, type TEXT, color TEXT);
CREATE TABLE listed (list TEXT, image_id TEXT, PRIMARY KEY (list, image_id)) WITHOUT ROWID;
CREATE TABLE problem (subject TEXT PRIMARY KEY, reason TEXT, detail TEXT);
"""

# The identity is the folder's; a file that lies outside a numbered folder takes the one its name is listed under.
RESOLVE = """
CREATE INDEX named_stem ON named (stem);
CREATE TEMP TABLE by_stem AS SELECT stem, min(image_id) AS image_id, count(*) AS found FROM named GROUP BY stem;
CREATE UNIQUE INDEX by_stem_stem ON by_stem (stem);
UPDATE file SET image_id = (SELECT b.image_id FROM by_stem b WHERE b.stem = file.stem AND b.found = 1)
    WHERE image_id IS NULL;
INSERT OR IGNORE INTO problem SELECT f.path, 'ambiguous_vehicle',
    'the lists give an image of this name to ' || b.found || ' vehicles and the file is in no vehicle''s folder'
    FROM file f JOIN by_stem b ON b.stem = f.stem AND b.found > 1 WHERE f.image_id IS NULL;
INSERT OR IGNORE INTO problem SELECT path, 'unknown_vehicle',
    'neither the folder nor a list says which vehicle this is' FROM file
    WHERE image_id IS NULL AND in_images AND path NOT IN (SELECT subject FROM problem);
INSERT OR IGNORE INTO problem SELECT path, 'duplicate_image_id', image_id || ' is already taken by ' || first FROM
    (SELECT path, image_id, min(path) OVER (PARTITION BY image_id) AS first FROM file WHERE image_id IS NOT NULL)
    WHERE path <> first;
CREATE TEMP TABLE good AS SELECT path, image_id FROM file
    WHERE image_id IS NOT NULL AND path NOT IN (SELECT subject FROM problem) ORDER BY path;
CREATE UNIQUE INDEX good_id ON good (image_id);
INSERT OR IGNORE INTO problem SELECT l.image_id, 'missing_file',
    'named in ' || group_concat(l.list, ', ') || '; there is no such file below the source'
    FROM (SELECT list, image_id FROM listed ORDER BY image_id, list) l
    WHERE l.image_id NOT IN (SELECT image_id FROM good) GROUP BY l.image_id;
"""


class VeriWildIndex:
    """Fill with ``add_*``, then ``resolve`` once, then ask."""

    def __init__(self) -> None:
        self._db = temporary_tables(TABLES)

    def add_files(self, found: Iterable[FoundImage | Rejected]) -> None:
        for file in found:
            if isinstance(file, Rejected):
                self.add_problem(file.subject, file.reason, file.detail)
                continue
            *folders, name = file.path.split("/")
            stem = name.rpartition(".")[0]
            image_id = f"{folders[-1]}/{stem}" if folders and folders[-1].isdecimal() else None
            in_images = bool(folders) and folders[0].lower().startswith("images")
            row = (file.path, file.size, in_images, stem, image_id)
            self._db.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?)", row)

    def add_problem(self, subject: str, reason: str, detail: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO problem VALUES (?, ?, ?)", (subject, reason, detail))

    def add_info(self, name: str, line: InfoLine) -> bool:
        """Take over one line; False when another line already says something else of the same image."""
        values = (line.camera_id, line.timestamp, line.model, line.type, line.color)
        before = self._db.execute(
            "SELECT camera, time, model, type, color FROM named WHERE image_id = ? AND in_info", (line.image_id,)
        ).fetchone()
        if before is not None:
            return bool(before == values)
        self._db.execute("INSERT INTO named VALUES (?, ?, 1, NULL, ?, ?, ?, ?, ?)", (line.image_id, line.stem, *values))
        self._db.execute("INSERT OR IGNORE INTO listed VALUES (?, ?)", (name, line.image_id))
        return True

    def add_list_line(self, name: str, line: ListLine) -> None:
        self._db.execute(
            "INSERT INTO named (image_id, stem, list_camera) VALUES (?, ?, ?) ON CONFLICT (image_id) "
            "DO UPDATE SET list_camera = coalesce(list_camera, excluded.list_camera)",
            (line.image_id, line.stem, line.camera_id),
        )
        self._db.execute("INSERT OR IGNORE INTO listed VALUES (?, ?)", (name, line.image_id))

    def resolve(self) -> None:
        """Give every file its image_id and find duplicates and absent images."""
        self._db.execute("COMMIT")
        self._db.executescript(RESOLVE)

    def content_hash(self) -> str:
        """Hexadecimal SHA-256 of all paths and sizes, in order of the path."""
        digest = hashlib.sha256()
        for path, size in self._db.execute("SELECT path, size FROM file ORDER BY path"):
            digest.update(f"{path}\0{size}\n".encode())
        return digest.hexdigest()

    def rows(self) -> Iterator[SourceImage | Rejected]:
        """Images in order of their path, then everything that was refused."""
        images = self._db.execute(
            "SELECT g.image_id, g.path, coalesce(n.camera, n.list_camera), n.time, n.color, n.type, n.model "
            "FROM good g LEFT JOIN named n ON n.image_id = g.image_id ORDER BY g.path"
        )
        for image_id, path, *known in images:
            yield SourceImage(image_id, image_id.partition("/")[0], path, *known)
        for subject, reason, detail in self._db.execute("SELECT * FROM problem ORDER BY subject"):
            yield Rejected(stage="import", subject=subject, reason=reason, detail=detail)

    def count(self, what: str) -> int:
        """Number of rows of ``what``, a table or a subquery of this module."""
        return int(self._db.execute(f"SELECT count(*) FROM {what}").fetchone()[0])

    def size(self) -> tuple[int, int]:
        """Images that are there, and their vehicles."""
        vehicles = "count(DISTINCT substr(image_id, 1, instr(image_id, '/') - 1))"
        images, distinct = self._db.execute(f"SELECT count(*), {vehicles} FROM good").fetchone()
        return images, distinct

    def stray_files(self, limit: int) -> tuple[int, list[str]]:
        """Pictures that belong to no vehicle and lie outside the image folders: how many, and the first ones."""
        stray = "FROM file WHERE image_id IS NULL AND NOT in_images AND path NOT IN (SELECT subject FROM problem)"
        examples = [path for (path,) in self._db.execute(f"SELECT path {stray} ORDER BY path LIMIT ?", (limit,))]
        return int(self._db.execute(f"SELECT count(*) {stray}").fetchone()[0]), examples

    def value_counts(self, column: str) -> dict[str, int]:
        """How often each value of a column of ``vehicle_info.txt`` occurs."""
        query = f"SELECT {column}, count(*) FROM named WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        return dict(self._db.execute(query))

    def time_patterns(self) -> dict[str, int]:
        """The shapes of the time stamps, every digit written as 9, commonest first."""
        self._db.create_function("shape", 1, lambda text: re.sub(r"\d", "9", text), deterministic=True)
        query = "SELECT shape(time), count(*) FROM named WHERE time IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._db.execute(query))

    def other_folder(self) -> int:
        """Files that lie in one vehicle's folder while the lists know their name under another vehicle only."""
        return self.count(
            "good g JOIN by_stem b ON b.stem = substr(g.image_id, instr(g.image_id, '/') + 1) "
            "WHERE g.image_id NOT IN (SELECT image_id FROM named)"
        )

    def camera_conflicts(self) -> int:
        """Images whose camera differs between ``vehicle_info.txt`` and a list."""
        return self.count("named WHERE camera <> list_camera")

    def unlisted(self) -> int:
        """Images on disk that no list file names (``vehicle_info.txt`` aside)."""
        in_a_list = "SELECT image_id FROM listed WHERE list NOT LIKE '%vehicle_info.txt'"
        return self.count(f"good WHERE image_id NOT IN ({in_a_list})")

    def undescribed(self) -> int:
        """Images on disk that ``vehicle_info.txt`` does not describe."""
        return self.count("good WHERE image_id NOT IN (SELECT image_id FROM named WHERE in_info)")

    def list_sizes(self) -> dict[str, tuple[int, int]]:
        """Images and vehicles named by each list."""
        query = (
            "SELECT list, count(*), count(DISTINCT substr(image_id, 1, instr(image_id, '/') - 1)) "
            "FROM listed GROUP BY list ORDER BY list"
        )
        return {name: (images, vehicles) for name, images, vehicles in self._db.execute(query)}

    def shared_images(self, one: str, other: str) -> int:
        query = "SELECT count(*) FROM listed a JOIN listed b ON a.image_id = b.image_id WHERE a.list = ? AND b.list = ?"
        return int(self._db.execute(query, (one, other)).fetchone()[0])

    def close(self) -> None:
        self._db.close()
