"""What of a folder of images is used, and what is not and why. Imports neither Keras nor TensorFlow.

What lies in the folder and is not used is counted and named; nothing is guessed in silence.
"""

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConfigError
from common.words import count

SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
# What systems leave behind, in lower case; also all that begins with a dot, as .DS_Store and .ipynb_checkpoints.
LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
# Of the formats that are read. Another format under one of these names is read as what it is.
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
UNOPENED = "cannot be opened"
# Of formats that are not read: phones' and cameras' own.
FOREIGN = frozenset((".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef"))
CACHE = ".decoded"  # of decoded images, in the data folder, which may be the image folder itself
NAMED = 3  # of what is counted

HIDDEN = "hidden or left by a system"
OUTSIDE = "not in a class folder"
OTHER = f"without the suffix of an image ({' '.join(sorted(SUFFIXES))})"
CONVERT = "of a format that is not read, to be converted to JPEG"
NOWHERE = "a link that leads nowhere"
AGAIN = "a link to a folder that is read already"
SPECIAL = "not a file"


@dataclass
class Listing:
    """The images of a folder by split (train, validation, test): path and index of the class.

    `unused` has the paths of all else by the reason, `nested` those of folders within class folders, whose images count
    for the class, and `remarks` further notes. Paths are the file system's own text: `printable` makes one that can be
    printed.
    """

    root: str
    class_names: tuple[str, ...] = ()
    splits: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)
    nested: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, path: str, reason: str) -> None:
        """Count a file or folder among the unused."""
        self.unused.setdefault(reason, []).append(path)

    def pass_over(self, inside: "Content") -> None:
        """Count what lies beside the folders of a folder, whose images are in those."""
        for path, reason in [*inside.passed, *((entry.path, OUTSIDE) for entry in inside.files)]:
            self.leave_out(path, reason)

    def notes(self) -> list[str]:
        """What a reader should know of the folder, each a line."""
        nested = [f"images of their class, folders within class folders: {self.named(self.nested)}"] * bool(self.nested)
        return [*self.remarks, *nested, *self.unused_notes()]

    def unused_notes(self) -> list[str]:
        """What lies in the folder and is not used, a line for each reason."""
        return [f"not used, {reason}: {self.named(paths)}" for reason, paths in sorted(self.unused.items())]

    def named(self, paths: Sequence[str]) -> str:
        """How many paths, and the first few of them, seen from the root."""
        return f"{len(paths):,} ({few([os.path.relpath(path, self.root) for path in paths])})"


def few(names: Sequence[str], most: int = NAMED) -> str:
    """The first few of many names, and how many more there are."""
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return " ".join([", ".join(map(printable, names[:most])), *more])


def fingerprint(names: Sequence[str], files: Sequence[str] = ()) -> dict[str, object]:
    """How many images there are, and a digest of their names and of their files' sizes, wherever their folder lies.

    `files` are those that the names are parts of, if these are not files themselves.
    """
    files = files or names
    sizes = {file: os.stat(file).st_size if os.path.isfile(file) else -1 for file in set(files)}  # noqa: PTH113, PTH116
    root = len(os.path.commonpath({os.path.dirname(file) for file in sizes})) if sizes else 0  # noqa: PTH120
    found = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        found.update(os.fsencode(f"{name[root:]}:{sizes[file]}\n"))
    return {"images": len(names), "digest": found.hexdigest()[:16]}


def printable(name: str) -> str:
    """A name as text that any file and screen takes: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def list_images(root: Path) -> Listing:
    """List the images of `root/<split>/<class>/*` or `root/<class>/*`, in an order that depends on their names alone.

    Opens no file. Raises ConfigError for a folder of neither form, or one that says two things at once.
    """
    if not root.is_dir():
        raise ConfigError(f"image folder {printable(str(root))} is not there (looked in {Path.cwd()})")
    listing = Listing(str(root))
    parts = split_folders(listing)
    classes = {split: class_folders(listing, folder) for split, folder in parts.items()}
    if len(classes["train"]) < 2:
        raise ConfigError(
            f"{printable(parts['train'])} has {count(len(classes['train']), 'class folder')}; at least two are needed"
            f"{wrapped(classes['train'])}"
        )
    listing.class_names = tuple(sorted(classes["train"], key=natural))
    for split, folders in classes.items():
        check_for_links(folders)
        if extra := sorted(folders.keys() - classes["train"].keys(), key=natural):
            raise ConfigError(f"{printable(parts[split])} has a class that train does not have: {extra[0]}")
        listing.splits[split] = [
            (path, label)
            for label, name in enumerate(listing.class_names)
            if name in folders
            for path in images_below(listing, folders[name], (listing.root, parts[split]))
        ]
    return listing


@dataclass(frozen=True)
class Content:
    """What lies in one folder, by name: folders, files, and what is passed over, with the reason."""

    folders: tuple[os.DirEntry[str], ...] = ()
    files: tuple[os.DirEntry[str], ...] = ()
    passed: tuple[tuple[str, str], ...] = ()


def content(folder: str) -> Content:
    """Look into a folder; links are followed."""
    folders, files, passed = [], [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        return Content(passed=((folder, unopened(error)),))
    for entry in found:
        if entry.name == CACHE:
            continue
        try:
            if entry.name.startswith(".") or entry.name.lower() in LEFTOVERS:
                passed.append((entry.path, HIDDEN))
            elif entry.is_dir():
                folders.append(entry)
            elif entry.is_file():
                files.append(entry)
            else:
                passed.append((entry.path, NOWHERE if entry.is_symlink() else SPECIAL))
        except OSError as error:  # a link that leads to itself, or into a closed folder
            passed.append((entry.path, unopened(error)))
    return Content(tuple(folders), tuple(files), tuple(passed))


def unopened(error: OSError) -> str:
    """The reason for leaving out what the system does not open."""
    return f"{UNOPENED} ({error.strerror})"


def split_folders(listing: Listing) -> dict[str, str]:
    """The folder of each split, if all sub-folders are called like one and hold folders; else the root, for train."""
    root, inside = printable(listing.root), content(listing.root)
    called = [entry for entry in inside.folders if entry.name.lower() in SPLIT_OF]
    holding = [entry for entry in called if content(entry.path).folders]
    names = ", ".join(entry.name for entry in called)
    others = [entry.name for entry in inside.folders if entry not in called]
    if not called:
        check_for_splits(inside.folders, root)
        return {"train": listing.root}
    misspelt = {
        entry.name: f"did you mean {near[0]}?"
        for entry in inside.folders
        if entry.name in others and content(entry.path).folders
        if (near := difflib.get_close_matches(entry.name.lower(), SPLIT_OF, n=1))
    }
    alike = [*holding, *(entry for entry in inside.folders if entry.name in misspelt)]
    if others and len(alike) > 1 and set.intersection(*(folder_names(entry.path) for entry in alike)):
        other, remedy = next(iter(misspelt.items()), (others[0], "so move that folder away"))
        raise ConfigError(
            f"image folder {root} has {names}, with class folders of the same names, and {printable(other)} beside "
            f"them; allowed: splits alone, {remedy}"
        )
    if others or not holding:
        why = f"{printable(others[0])} lies beside them" if others else "they hold no folders"
        listing.remarks.append(f"taken for classes, not for splits, as {why}: {names}")
        return {"train": listing.root}
    for entry in called:
        if entry not in holding:
            raise ConfigError(
                f"image folder {root} has {holding[0].name} with class folders and {entry.name} without; "
                f"allowed: class folders in each, or image_folder:{root}/{holding[0].name} alone"
            )
    parts: dict[str, str] = {}
    for entry in called:
        split = SPLIT_OF[entry.name.lower()]
        if split in parts:
            both = f"{Path(parts[split]).name} and {entry.name}"
            raise ConfigError(f"image folder {root} has {both}, which both mean {split}; allowed: one of them")
        parts[split] = entry.path
    if "train" not in parts:
        raise ConfigError(f"image folder {root} has {' and '.join(names.split(', '))} but no train")
    listing.pass_over(inside)
    return {split: parts[split] for split in SPELLINGS if split in parts}


def check_for_splits(folders: Sequence[os.DirEntry[str]], root: str) -> None:
    """Raise ConfigError if folders named after splits, as seg_train and seg_test, hold the same class folders."""
    found: dict[str, str] = {}
    for entry in folders:
        words = SPLIT_OF.keys() & re.split(r"[\W_]+", entry.name.lower())
        found |= {SPLIT_OF[word]: entry.path for word in words}
    if len(found) > 1 and set.intersection(*map(inner_names, found.values())):
        names = ", ".join(printable(os.path.basename(path)) for path in found.values())  # noqa: PTH119 (as above)
        raise ConfigError(
            f"image folder {root} has {names}, with class folders of the same names, which would be taken for classes; "
            f"allowed: {', '.join(found)} as their names, with the class folders in them"
        )


def inner_names(folder: str) -> set[str]:
    """Names of the folders in a folder, or of those in the only one, as archives often wrap them."""
    inside = content(folder).folders
    within = folder_names(inside[0].path) if len(inside) == 1 else set()
    return within or {entry.name for entry in inside}


def folder_names(folder: str) -> set[str]:
    """Names of the folders in a folder."""
    return {entry.name for entry in content(folder).folders}


def class_folders(listing: Listing, folder: str) -> dict[str, str]:
    """The classes of a split and their folders. A name is the same however its accents are composed."""
    inside = content(folder)
    listing.pass_over(inside)
    classes: dict[str, str] = {}
    for entry in inside.folders:
        name = printable(unicodedata.normalize("NFC", entry.name))
        if name in classes:
            raise ConfigError(f"{printable(folder)} has two class folders called {name}; allowed: one of them")
        classes[name] = entry.path
    return classes


def check_for_links(classes: Mapping[str, str]) -> None:
    """Raise ConfigError if two classes are one folder, to which a link leads: each image would be of both."""
    seen: dict[tuple[int, int], str] = {}
    for name, folder in classes.items():
        try:
            own = identity(folder)
        except OSError:  # it is closed, which `images_below` says
            continue
        if own in seen:
            raise ConfigError(f"the class folders {seen[own]} and {name} are one, by a link; allowed: one of them")
        seen[own] = name


def images_below(listing: Listing, folder: str, above: Sequence[str]) -> list[str]:
    """The images in a class folder and in the folders within, each read once even if links lead to it again."""
    images, waiting = [], [folder]
    seen = {identity(path) for path in above}
    while waiting:
        here = waiting.pop()
        try:
            own = identity(here)
        except OSError as error:  # its folder may be listed, but not entered
            listing.leave_out(here, unopened(error))
            continue
        if own in seen:
            listing.leave_out(here, AGAIN)
            continue
        seen.add(own)
        inside = content(here)
        for entry in inside.files:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a million of them)
            if suffix in SUFFIXES:
                images.append(entry.path)
            else:
                listing.leave_out(entry.path, CONVERT if suffix in FOREIGN else OTHER)
        for path, reason in inside.passed:
            listing.leave_out(path, reason)
        listing.nested += [entry.path for entry in inside.folders]
        waiting += [entry.path for entry in reversed(inside.folders)]
    return sorted(images, key=lambda path: path.split(os.sep))  # noqa: PTH206 (as above)


def identity(folder: str) -> tuple[int, int]:
    """What tells a folder from all others, whatever path leads to it."""
    state = os.stat(folder)  # noqa: PTH116 (no Path for each)
    return state.st_dev, state.st_ino


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts numbers in names by their value: 1, 2, 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def wrapped(classes: dict[str, str]) -> str:
    """A hint if the one folder in an image folder is the image folder."""
    return "".join(f"; did you mean image_folder:{printable(f)}?" for f in classes.values() if content(f).folders)
