"""MovieLens's files: found, downloaded and checked, and read."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd

from tfmoe import files
from tfmoe.remote import address, local_copy

HOME = "https://files.grouplens.org/datasets/movielens/"

# SHA-256 of the archives, as TensorFlow Datasets has them too
# (url_checksums/movielens.txt). ml-latest-small is the release of September 2018;
# GroupLens may bring out another under the same name.
CHECKSUMS = {
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    "ml-latest-small": "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
}

_ML_1M_RATINGS = ("ratings.dat", "ratings_reconstructed.csv.gz")
# What the columns of the other set's table are.
_LATEST = {"userId": "user_id", "movieId": "movie_id", "rating": "rating", "timestamp": "when"}
_NO_GENRES = "(no genres listed)"


def tables_of(name_or_path: files.PathLike, in_order: bool = False) -> tuple[Any, Any, Any]:
    """What `read` returns of a name, of a folder, or of one behind an URL."""
    if name_or_path in CHECKSUMS:
        return read(folder_of(name_or_path), in_order)
    with local_copy(name_or_path) as copy:
        return read(folder_of(name_or_path, copy), in_order)


def read(folder: Path, in_order: bool = False) -> tuple[Any, Any, Any]:
    """Ratings in file order, movies, and users or None.

    Args:
        folder: what `folder_of` found.
        in_order: whether each user's ratings come in the order that they were made in, users in
            ascending order; of equal times in the file's.
    """
    if (folder / "movies.dat").is_file():
        movies = _read_dat(folder / "movies.dat", ["movie_id", "title", "genres"])
        users = _read_dat(folder / "users.dat", ["user_id", "gender", "age", "occupation", "zip"])
        users = users.astype({"user_id": int, "age": int, "occupation": int}).drop(columns="zip")
        ratings = _read_ml_1m_ratings(folder)
    else:
        movies = pd.read_csv(folder / "movies.csv").rename(columns={"movieId": "movie_id"})
        users = None
        ratings = pd.read_csv(folder / "ratings.csv", usecols=list(_LATEST))
        ratings = ratings[list(_LATEST)].rename(columns=_LATEST)
    movies = pd.DataFrame(
        {
            "movie_id": movies["movie_id"].astype(int),
            "genres": movies["genres"].replace(_NO_GENRES, ""),
            # The last year in parentheses: "Nine (9) (2009)", "Fargo (2014-2015)".
            "year": movies["title"].str.extract(r"\((\d{4})[^()]*\)\s*$")[0].astype(float),
        }
    )
    if in_order:
        ratings = ratings.sort_values(["user_id", "when"], kind="stable", ignore_index=True)
    ratings = ratings.drop(columns="when")
    ratings.insert(2, "watch", 1)
    return ratings.astype({"rating": float}), movies, users


def _read_dat(path, names):
    # The files are latin-1; titles may hold single colons, never two.
    lines = path.read_text(encoding="latin-1").splitlines()
    return pd.DataFrame([line.split("::") for line in lines], columns=names)


def _read_ml_1m_ratings(folder):
    names = ["user_id", "movie_id", "rating", "when"]
    if (folder / "ratings.dat").is_file():
        # With one colon as the separator, pandas' fast parser sees an empty column
        # between any two.
        return pd.read_csv(
            folder / "ratings.dat", sep=":", header=None, usecols=[0, 2, 4, 6], names=range(7)
        ).set_axis(names, axis=1)
    ratings = pd.read_csv(folder / "ratings_reconstructed.csv.gz")
    # Not all of its ratings have a time.
    return ratings.rename(columns={"order_in_user": "when"})[names]


def folder_of(name_or_path: files.PathLike, copy: Path | None = None) -> Path:
    """Folder with the files; downloads them if a name is given and nothing is there.

    Args:
        name_or_path: one of the names, or a path.
        copy: where what is at the path is to be looked for, or None for the path itself.
    """
    if name_or_path in CHECKSUMS:
        homes = [Path(os.environ["TFMOE_DATA"])] if os.environ.get("TFMOE_DATA") else []
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfmoe"
        for home in (*homes, cache):
            if _is_movielens(home / name_or_path):
                return home / name_or_path
        return _download(name_or_path, cache)
    folder = copy or Path(address(name_or_path))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"movielens takes one of the names {sorted(CHECKSUMS)} or the path of a folder. "
            f"Received name_or_path={str(name_or_path)!r}, which is neither."
        )
    if not _is_movielens(folder):
        raise ValueError(
            "A MovieLens folder holds movies.dat, users.dat and ratings.dat (ml-1m), or "
            f"movies.csv and ratings.csv. Received name_or_path={str(name_or_path)!r}, which "
            f"holds {sorted(path.name for path in folder.iterdir())[:10]}. Give the folder "
            f"that the archive of {HOME} unpacks to."
        )
    return folder


def _is_movielens(folder):
    def has(name):
        return (folder / name).is_file()

    ml_1m = has("movies.dat") and has("users.dat") and any(map(has, _ML_1M_RATINGS))
    return ml_1m or (has("movies.csv") and has("ratings.csv"))


def _download(name, cache):
    """Fetches, checks and unpacks the archive; the folder appears whole or not at all."""
    url = f"{HOME}{name}.zip"
    with files.scratch(cache / name) as scratch:
        archive = scratch / "archive.zip"
        try:
            _fetch(url, archive)
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            raise ConnectionError(
                f"{name} is not on this machine and could not be downloaded from {url} "
                f"({error}). Download it elsewhere, unpack it, and either set the environment "
                f"variable TFMOE_DATA to the folder that holds the folder {name!r}, or move "
                f"{name!r} into {cache}, or give movielens its path. Received "
                f"TFMOE_DATA={os.environ.get('TFMOE_DATA')!r}."
            ) from error
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != CHECKSUMS[name]:
            raise OSError(
                f"The archive of {name} should have the SHA-256 {CHECKSUMS[name]}. Received "
                f"sha256={digest} from {url}; nothing was kept. Try again; if the archive "
                "itself has changed, unpack it yourself and give movielens the folder's path."
            )
        _unpack(archive, scratch)
        folder = scratch / name
        if not _is_movielens(folder):
            raise OSError(
                f"The archive of {name} should hold a folder {name!r} with its files. Received "
                f"another content from {url}; nothing was kept."
            )
        try:
            files.place(folder, cache / name)
        except FileExistsError:
            # If another process was faster, its copy passed the same checks.
            if not _is_movielens(cache / name):
                raise
    return cache / name


def _fetch(url, path):
    from rich.progress import wrap_file

    with urllib.request.urlopen(url, timeout=30) as response, path.open("wb") as out:
        size = int(response.headers.get("Content-Length") or 0)
        with wrap_file(response, total=size, description=f"Downloading {url}") as source:
            shutil.copyfileobj(source, out)


def _unpack(archive, folder):
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise OSError(
                    "The archive's files should lie inside its own folder. Received a file "
                    f"named {name!r}; nothing was kept. Do not use this archive."
                )
        packed.extractall(folder)
