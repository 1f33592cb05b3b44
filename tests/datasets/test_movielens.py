import functools
import gzip
import hashlib
import http.server
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfmoe.datasets import movielens_files as module
from tfmoe.datasets.movielens import _offsets, draw_negatives, floors, movielens
from tfmoe.datasets.synthetic import Split

USERS = ["1::F::1::10::48067", "2::M::56::16::70072", "7::M::25::15::55117"]
MOVIES = [
    "1::Toy Story (1995)::Animation|Children's",
    "2::Mission: Impossible (1996)::Action",
    "3::Les Misérables (1995)::Drama",
    "5::Nobody rated this (2000)::Drama",
    "9::No year::Drama",
]
# User 7 comes before user 2 in the file, and has rated all but one of the rated movies.
RATINGS = ["1::2::5::978300760", "1::1::3::978302109", "7::1::4::978300000"]
RATINGS += ["7::2::2::978300001", "7::3::1::978300002", "2::9::5::978300003"]
# Some more, so that there is something to split.
USERS += [f"{user}::M::18::0::00000" for user in range(100, 120)]
RATINGS += [f"{user}::1::4::978300004" for user in range(100, 120)]


def write_ml_1m(folder, official=True):
    folder.mkdir(parents=True)
    (folder / "users.dat").write_text("\n".join(USERS) + "\n", encoding="latin-1")
    (folder / "movies.dat").write_text("\n".join(MOVIES) + "\n", encoding="latin-1")
    if official:
        (folder / "ratings.dat").write_text("\n".join(RATINGS) + "\n")
    else:
        rows = [line.replace("::", ",") + ",1" for line in RATINGS]
        text = "\n".join(["user_id,movie_id,rating,timestamp,order_in_user", *rows]) + "\n"
        with gzip.open(folder / "ratings_reconstructed.csv.gz", "wt") as file:
            file.write(text)
    return folder


def whole(split):
    return pd.concat([split.train, split.valid, split.test], ignore_index=True)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """Neither TFMOE_DATA nor anything in the cache; gives the cache's folder."""
    monkeypatch.delenv("TFMOE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tfmoe"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A web server in place of GroupLens; gives the folder that it serves."""
    home = tmp_path / "server"
    home.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=home)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setattr(module, "HOME", f"http://127.0.0.1:{running.server_port}/")
        thread = threading.Thread(target=running.serve_forever, args=[0.01])
        thread.start()
        yield home
        running.shutdown()
        thread.join()


def put_archive(home, monkeypatch, files, checksum=None):
    path = home / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    checksum = checksum or hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(module.CHECKSUMS, "ml-1m", checksum)


def tiny_archive(tmp_path):
    folder = write_ml_1m(tmp_path / "packed")
    return {f"ml-1m/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("official", [True, False])
def test_ml_1m_reads_both_kinds_of_ratings(tmp_path, official):
    rows = whole(movielens(write_ml_1m(tmp_path / "data", official)))
    watched = rows[(rows["watch"] == 1) & (rows["user_id"] < 100)].sort_values(
        ["user_id", "movie_id"]
    )
    assert watched[["user_id", "movie_id", "rating"]].to_numpy().tolist() == [
        [1, 1, 3], [1, 2, 5], [2, 9, 5], [7, 1, 4], [7, 2, 2], [7, 3, 1],
    ]  # fmt: skip
    assert watched["genres"].tolist()[:2] == ["Animation|Children's", "Action"]
    np.testing.assert_array_equal(watched["year"].tolist()[:3], [1995, 1996, np.nan])
    assert watched[["gender", "age", "occupation"]].to_numpy().tolist()[2] == ["M", 56, 16]


def test_negatives_are_unrated_by_the_user_and_rated_by_somebody(tmp_path):
    rows = whole(movielens(write_ml_1m(tmp_path / "data")))
    unwatched = rows[rows["watch"] == 0]
    pairs = {user: set(group["movie_id"]) for user, group in unwatched.groupby("user_id")}
    assert pairs[1] == {3, 9}
    assert pairs[7] == {9}
    assert len(pairs[2]) == 1
    assert pairs[2] < {1, 2, 3}
    assert len(unwatched) == 24
    assert unwatched["rating"].isna().all()


def test_small_files_with_half_stars_and_missing_genres(tmp_path):
    movies = ['4,"Lost, The (2004\u20132010) ",(no genres listed)', "6,Nine (9),Drama|War"]
    (tmp_path / "movies.csv").write_text(
        "\n".join(["movieId,title,genres", *movies]) + "\n", encoding="utf-8"
    )
    ratings = [f"{user},{4 if user % 2 else 6},3.5,0" for user in range(30)]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    split = movielens(tmp_path)
    rows = whole(split)
    assert set(rows.loc[rows["movie_id"] == 4, "genres"]) == {""}
    assert set(rows.loc[rows["movie_id"] == 4, "year"]) == {2004}
    assert rows.loc[rows["movie_id"] == 6, "year"].isna().all()
    assert (rows["rating"].dropna() == 3.5).all()
    assert [column.name for column in split.schema.columns][-1] == "year"


def test_negatives_depend_on_the_seed_alone(tmp_path):
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame(
        {"user_id": rng.integers(50, size=800), "movie_id": rng.integers(200, size=800)}
    ).drop_duplicates()
    shuffled = ratings.sample(frac=1, random_state=0)
    first = draw_negatives(ratings, "uniform", 0)
    assert first.equals(draw_negatives(shuffled, "uniform", 0))
    assert not first.equals(draw_negatives(ratings, "uniform", 1))


def test_popular_negatives_follow_the_number_of_ratings():
    # 400 users have each rated movie 0; movie 1 has 40 ratings, movie 2 has 10.
    users = np.arange(400)
    ratings = pd.DataFrame(
        {
            "user_id": np.concatenate([users, np.arange(1000, 1040), np.arange(2000, 2010)]),
            "movie_id": [0] * 400 + [1] * 40 + [2] * 10,
        }
    )
    drawn = draw_negatives(ratings, "popularity", 0)
    drawn = drawn.loc[drawn["user_id"] < 400, "movie_id"]
    assert (drawn == 1).mean() == pytest.approx(0.8, abs=0.06)  # three standard errors


def test_floors_by_hand():
    def frame(rows):
        return pd.DataFrame(rows, columns=["user_id", "movie_id", "watch", "rating"])

    nan = np.nan
    train = frame([(1, 1, 1, 5.0), (2, 1, 1, 3.0), (1, 2, 0, nan), (2, 2, 0, nan), (3, 3, 1, 4.0)])
    test = frame([(8, 1, 1, 3.0), (9, 2, 0, nan), (9, 9, 1, 4.0)])
    found = floors(Split(train, test, test, None))
    assert found["rating_mse_constant"] == pytest.approx(0.5)  # the mean is 4
    assert found["rating_mse_bias"] == pytest.approx(0.5)  # movie 1's offset is 0
    assert found["watch_auc"] == 1.0
    shares = np.array([3 / 4, 1 - 1 / 4, 3 / 5])  # an unknown movie has the overall share
    assert found["watch_log_loss"] == pytest.approx(-np.log(shares).mean())


def test_offsets_are_the_ridge_solution():
    rng = np.random.default_rng(0)
    train = pd.DataFrame(
        {"user_id": rng.integers(4, size=60), "movie_id": rng.integers(3, size=60)}
    )
    residual = pd.Series(rng.normal(size=60))
    design = pd.get_dummies(train.astype(str)).to_numpy(float)
    exact = np.linalg.solve(design.T @ design + 2 * np.eye(7), design.T @ residual)
    of_user, of_movie = _offsets(train, residual, shrinkage=2.0, rounds=100)
    np.testing.assert_allclose([*of_user, *of_movie], exact, atol=1e-10)


def test_named_data_is_looked_for_in_tfmoe_data_and_then_the_cache(no_data, monkeypatch, tmp_path):
    write_ml_1m(no_data / "ml-1m")
    assert module.folder_of("ml-1m") == no_data / "ml-1m"
    monkeypatch.setenv("TFMOE_DATA", str(tmp_path / "mine"))
    assert module.folder_of("ml-1m") == no_data / "ml-1m"
    write_ml_1m(tmp_path / "mine" / "ml-1m")
    assert module.folder_of("ml-1m") == tmp_path / "mine" / "ml-1m"


def test_download_is_checked_unpacked_and_kept(no_data, server, monkeypatch, tmp_path):
    put_archive(server, monkeypatch, tiny_archive(tmp_path))
    assert len(whole(movielens("ml-1m"))) == 50
    (server / "ml-1m.zip").unlink()
    assert len(whole(movielens("ml-1m"))) == 50
    assert [path.name for path in no_data.iterdir()] == ["ml-1m"]


def test_wrong_checksum_leaves_nothing_behind(no_data, server, monkeypatch, tmp_path):
    put_archive(server, monkeypatch, tiny_archive(tmp_path), checksum="0" * 64)
    with pytest.raises(OSError, match=r"should have the SHA-256 0{64}. Received sha256=\w{64}"):
        movielens("ml-1m")
    assert not no_data.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.txt", "inside its own folder. Received a file named '../outside.txt'"),
        ("ml-1m/README", "should hold a folder 'ml-1m' with its files"),
    ],
)
def test_wrong_archive_leaves_nothing_behind(no_data, server, monkeypatch, name, message):
    put_archive(server, monkeypatch, {name: b"text"})
    with pytest.raises(OSError, match=message):
        movielens("ml-1m")
    assert not no_data.exists()


def test_no_network_says_what_to_do(no_data, server):
    with pytest.raises(ConnectionError, match="TFMOE_DATA to the folder that holds") as caught:
        movielens("ml-1m")  # the server has no such file
    assert f"{module.HOME}ml-1m.zip" in str(caught.value)
    assert str(no_data) in str(caught.value)
    assert not no_data.exists()


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="Received name_or_path='ml-2m', which is neither"):
        movielens("ml-2m")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"which holds \['notes.txt'\]"):
        movielens(tmp_path)
    with pytest.raises(ValueError, match="Received negatives='hard'"):
        movielens(tmp_path, negatives="hard")


def test_both_splits_are_stratified(tmp_path):
    ratings = [f"{user},{movie},3,0" for user in range(40) for movie in range(1, 9)]
    movies = "\n".join(["movieId,title,genres", *(f"{m},M,x" for m in range(1, 21))])
    (tmp_path / "movies.csv").write_text(movies + "\n")
    # A user who has rated the others, that there be movies to draw.
    ratings += [f"99,{movie},3,0" for movie in range(9, 21)]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    split = movielens(tmp_path)
    share = whole(split)["watch"].mean()
    for part in (split.train, split.valid, split.test):
        assert abs(part["watch"].sum() - share * len(part)) < 1


@pytest.fixture(scope="module")
def ml_1m():
    if not os.environ.get("TFMOE_DATA"):
        pytest.skip("TFMOE_DATA names no folder with real data")
    return movielens("ml-1m")


@pytest.mark.slow
def test_ml_1m_has_the_counts_of_the_protocol(ml_1m):
    parts = [ml_1m.train, ml_1m.valid, ml_1m.test]
    assert [len(part) for part in parts] == [1_574_602, 224_944, 199_950]
    # Both splits are stratified; so many rated movies COMET's authors publish for each part.
    assert [part["watch"].sum() for part in parts] == [787_664, 112_524, 100_021]
    rows = whole(ml_1m)
    assert (rows["watch"] == 0).sum() == 999_287
    assert not rows.duplicated(["user_id", "movie_id"]).any()
    assert (rows["rating"].isna() == (rows["watch"] == 0)).all()
    assert rows["movie_id"].nunique() == 3_706
    assert not rows[["genres", "year", "gender", "age", "occupation"]].isna().any(axis=None)
    raw = [part.raw_name for part in (*ml_1m.schema.columns, *ml_1m.schema.tasks)]
    assert list(rows.columns) == raw
    rated = rows.groupby("user_id")["watch"].agg(["sum", "count"])
    assert (rated["count"] - rated["sum"] == np.minimum(rated["sum"], 3_706 - rated["sum"])).all()


@pytest.mark.slow
def test_ml_1m_floors(ml_1m):
    found = floors(ml_1m)
    assert found["rating_mse_constant"] == pytest.approx(1.253, abs=1e-3)
    assert found["rating_mse_bias"] == pytest.approx(0.828, abs=1e-3)
    assert found["watch_auc"] == pytest.approx(0.849, abs=1e-3)
    assert found["watch_log_loss"] == pytest.approx(0.479, abs=1e-3)


def test_ml_latest_small():
    if not os.environ.get("TFMOE_DATA"):
        pytest.skip("TFMOE_DATA names no folder with real data")
    rows = whole(movielens(Path(os.environ["TFMOE_DATA"]) / "ml-latest-small"))
    assert (rows["watch"] == 1).sum() == 100_836
    assert rows["movie_id"].nunique() == 9_724
    assert (rows["rating"].min(), rows["rating"].max()) == (0.5, 5.0)
    years = rows.drop_duplicates("movie_id")["year"]
    assert years.isna().sum() == 12
    assert years.between(1900, 2018).sum() == 9_724 - 12
