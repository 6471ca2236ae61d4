"""Seven records, files of them in two formats, and all documents of a folder."""

from __future__ import annotations

import gzip
import json

from photon.data.prepare.listing import find_files
from photon.data.prepare.readers import Columns
from photon.data.prepare.sources import LocalSource

TEXT = Columns()

RECORDS = [{"text": f"text {i} ünï", "language": "en" if i % 2 else "de"} for i in range(7)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def write_jsonl(path):
    path.write_bytes(LINES)


def write_gzip(path):
    with gzip.open(path, "wb") as file:
        file.write(LINES)


def list_files(root):
    return find_files(root)[0]


def read(root, columns=TEXT, start=0):
    source = LocalSource(list_files(root), columns)
    return [
        (place, document)
        for file in range(source.num_files())
        for place, document in source.documents(file, start)
    ]
