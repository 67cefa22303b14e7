"""Folders of images as data sets: listed and decoded once; what cannot be decoded is named."""

from pathlib import Path

from common.data.decoded import decode_once, splits_of
from common.data.listing import list_images, printable
from common.data.splits import Loaded


def image_folder(root: Path, size: int, data_folder: Path, gigabytes: float) -> Loaded:
    """The images of `list_images`, in colour and of `size` pixels.

    What cannot be decoded is left out of the splits and named in a note. Raises ConfigError for a folder without
    images.
    """
    listing = list_images(root)
    files = [path for images in listing.splits.values() for path, _ in images]
    unreadable, decoded = decode_once(Path(listing.root), files, (size, size, 3), data_folder, gigabytes)
    for path, reason in unreadable.items():
        listing.leave_out(path, reason)
    notes = listing.notes()
    for note in notes:
        print(f"note: {note}", flush=True)
    splits = splits_of(f"image folder {printable(str(root))}", listing.splits, size, 3, unreadable)
    return Loaded(splits, listing.class_names, notes, files, unreadable, decoded)
