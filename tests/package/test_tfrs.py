"""TensorFlow Recommenders needs Keras 2, so each of these runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_tfrs_model_trains_saves_and_exports_a_mixture(tmp_path):
    done = run(ROOT / "tests" / "package" / "tfrs_ranking.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")


def test_without_keras_2_it_says_what_to_do():
    done = run("-c", "import tfmoe.tfrs", TF_USE_LEGACY_KERAS="0")
    assert done.returncode == 1
    assert "TF_USE_LEGACY_KERAS='0'. Set that environment variable to 1" in done.stderr


@pytest.mark.slow
def test_the_guides_example_trains(tmp_path):
    (block,) = blocks(DOCS / "guides" / "tfrs.md")
    script = tmp_path / "example.py"
    script.write_text(
        block.text
        + """
rows = {"movie_id": tf.range(64), "watch": tf.ones((64, 1)), "rating": tf.ones((64, 1))}
model = Ranker()
model.compile(optimizer=tf.keras.optimizers.Adam(0.01))
history = model.fit(tf.data.Dataset.from_tensors(rows), epochs=9, verbose=0).history
assert history["loss"][-1] < 0.9 * history["loss"][0], history
"""
    )
    done = run(script, TF_USE_LEGACY_KERAS="1")
    assert done.returncode == 0, done.stderr[-3000:]
