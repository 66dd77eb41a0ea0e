"""The ledger: what every network answered to every image, kept piece by piece so that a killed evaluation goes on.

    asked.json                       what is scored: networks, cells, images; another question gets a new ledger
    pieces/<cell>/<first row>.parquet    answers to some rows of a cell that is not finished
    predictions/<cell>.parquet       all answers of a finished cell, one row group for each piece
    journal.jsonl                    a line for every piece: which, and when it came; not in an object store, where a
                                     file cannot grow

A file appears whole or not at all. Pieces are cut the same way whatever the number of workers, so the finished
files are the same too. Reading works at any time, also while an evaluation writes.
"""

import io
import json
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import (
    StoredPath,
    StorePath,
    append_line,
    matching,
    open_file,
    remove_folder,
    rename_folder,
    write_atomically,
)

ASKED = "asked.json"


class Ledger:
    """The answers below one folder.

    Args:
        folder: of the ledger; it need not exist.
    """

    def __init__(self, folder: StoredPath) -> None:
        self.folder = folder
        self.opened: dict[str, pq.ParquetFile] = {}
        path = folder / ASKED
        self.asked: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        """What the ledger answers, or None where there is none."""

    def ask(
        self, identity: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]
    ) -> None:
        """Begin, or go on with, the ledger of a question; the answers to another one are moved aside, not lost.

        Args:
            identity: what decides the answers of all cells.
            cells: by key, what decides the answers of each; `rows` and `step` (rows of a piece) are needed here.
                Answers to cells that only an earlier question had stay; `latest` lists those of this one.
            about: what readers of the answers want to know besides.
        """
        asked = json.loads(json.dumps({"identity": identity, "about": about, "cells": cells, "latest": list(cells)}))
        if self.asked:
            known = self.asked["cells"]
            others = [key for key in known.keys() & asked["cells"].keys() if known[key] != asked["cells"][key]]
            if others or self.asked["identity"] != asked["identity"]:
                self.move_aside()
            else:
                asked["cells"] = known | asked["cells"]
        self.asked = asked
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / ASKED, json.dumps(asked, indent=1))
        for cell in filter(self.is_finished, asked["cells"]):  # a kill may have come between joining and tidying up
            remove_folder(self.folder / "pieces" / cell)

    def move_aside(self) -> None:
        """Rename the folder to a name that is free."""
        self.opened.clear()
        number = 1
        while self.folder.with_name(f"{self.folder.name}-old-{number}").exists():
            number += 1
        rename_folder(self.folder, f"{self.folder.name}-old-{number}")

    def piece_path(self, cell: str, first: int) -> StoredPath:
        """Where a piece of an unfinished cell lies."""
        return self.folder / "pieces" / cell / f"{first:09d}.parquet"

    def finished_path(self, cell: str) -> StoredPath:
        """Where the answers of a finished cell lie."""
        return self.folder / "predictions" / f"{cell}.parquet"

    def is_finished(self, cell: str) -> bool:
        """Whether all rows of a cell have been answered."""
        return self.finished_path(cell).exists()

    def firsts(self, cell: str) -> list[int]:
        """The first rows of the pieces that are answered, in order."""
        if self.is_finished(cell):
            return self.all_firsts(cell)
        return [int(path.stem) for path in matching(self.folder / "pieces" / cell, "*.parquet")]

    def all_firsts(self, cell: str) -> list[int]:
        """The first rows of all its pieces."""
        assert self.asked is not None
        asked = self.asked["cells"][cell]
        return list(range(0, asked["rows"], asked["step"]))

    def put(self, cell: str, first: int, answers: bytes) -> None:
        """Keep a piece: a parquet file as bytes."""
        path = self.piece_path(cell, first)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, answers)
        if not isinstance(path, StorePath):
            line = json.dumps({"cell": cell, "first": first, "time": round(time.time(), 3)})
            append_line(self.folder / "journal.jsonl", line)

    def finish(self, cell: str) -> None:
        """Join the pieces of a cell, which are all there, into its one file.

        Raises:
            RuntimeError: A piece is damaged; it is removed, so that it will be answered again.
        """
        assert self.asked is not None
        path, rows = self.finished_path(cell), self.asked["cells"][cell]["rows"]
        path.parent.mkdir(parents=True, exist_ok=True)
        joined = io.BytesIO()
        writer: pq.ParquetWriter | None = None
        for first, following in pairwise([*self.all_firsts(cell), rows]):
            table = self.whole_piece(cell, first, following - first)
            writer = writer or pq.ParquetWriter(joined, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None
        writer.close()
        write_atomically(path, joined.getvalue())
        remove_folder(self.folder / "pieces" / cell)

    def whole_piece(self, cell: str, first: int, rows: int) -> pa.Table:
        """A piece of an unfinished cell, checked."""
        path = self.piece_path(cell, first)
        try:
            table = pq.read_table(open_file(path))
        except (OSError, pa.ArrowInvalid) as error:
            found = f"cannot be read ({str(error).splitlines()[0]})"
        else:
            if len(table) == rows:
                return table
            found = f"has {len(table)} rows, not {rows}"
        path.unlink(missing_ok=True)
        raise RuntimeError(f"{path} {found} and is removed; the same command answers these rows again")

    def piece(self, cell: str, first: int, columns: list[str] | None = None) -> pa.Table:
        """The answers to the rows of a cell that begin with `first`."""
        if not self.is_finished(cell):
            return pq.read_table(open_file(self.piece_path(cell, first)), columns=columns)
        if cell not in self.opened:
            self.opened[cell] = pq.ParquetFile(open_file(self.finished_path(cell)))
        return self.opened[cell].read_row_group(self.all_firsts(cell).index(first), columns=columns)

    def tables(self, cell: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The answers of a cell so far, piece by piece."""
        for first in self.firsts(cell):
            yield self.piece(cell, first, columns)

    def read(self, cell: str, columns: list[str] | None = None) -> pa.Table:
        """The answers of a cell so far; at least one piece must be there."""
        return pa.concat_tables(self.tables(cell, columns))


def as_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
