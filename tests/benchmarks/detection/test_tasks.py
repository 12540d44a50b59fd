import csv
import io
import zipfile

import numpy as np
import pytest
from detection import tasks
from detection.classic import classic_cells
from detection.tasks import DATASETS, NORMALS_ONLY, UNSUPERVISED, Sample, Task
from PIL import Image


@pytest.fixture
def folder(tmp_path, clothes, letters):
    """The benchmark's files, in small: bundled images under labels of their own."""
    labels = np.arange(1000) % 10
    np.savez(
        tmp_path / "fashion_mnist_pub.npz",
        x_train=clothes[:600, ..., 0],
        y_train=labels[:600],
        x_test=clothes[600:800, ..., 0],
        y_test=labels[600:800],
    )
    np.savez(tmp_path / "mnist.npz", x_test=letters[:250, ..., 0])
    np.savez(tmp_path / "notmnist_pub.npz", x=letters[..., 0])
    values = clothes.mean(2).reshape(1000, 28)
    table = io.BytesIO()
    np.savez(table, X=values, y=(labels == 0).astype(int))
    with zipfile.ZipFile(tmp_path / "adbench_A.zip", "w") as archive:
        archive.writestr("45_wine.npz", table.getvalue())
    return tmp_path


def sample_of(folder, data, part, seed=0):
    return DATASETS[data].load(folder, part, seed)


def test_one_vs_rest_trains_on_one_class_and_tests_on_all(folder, clothes):
    sample = sample_of(folder, "fashion-mnist", "class 3")
    assert np.array_equal(sample.train, clothes[:600][np.arange(600) % 10 == 3])
    assert np.array_equal(sample.test, clothes[600:800])
    assert np.array_equal(sample.strange, np.arange(200) % 10 != 3)


def test_other_data_are_as_many_as_test_images(folder, clothes, letters):
    sample = sample_of(folder, "other data", "MNIST")
    assert len(sample.train) == 600 and len(sample.test) == 400
    assert np.array_equal(sample.test[sample.strange], letters[:200])
    assert np.array_equal(sample.test[~sample.strange], clothes[600:800])


def test_tasks_of_one_training_share_its_model(folder):
    tasks = list(DATASETS["other data"].tasks(folder, [0, 1]))
    assert len(tasks) == 4 and len({task.same_training for task in tasks}) == 1
    digests = {task.digest for task in tasks}
    with (folder / "mnist.npz").open("ab") as file:
        file.write(b"changed")
    tasks_cache_clear()
    assert digests.isdisjoint(task.digest for task in DATASETS["other data"].tasks(folder, [0]))


def tasks_cache_clear():
    tasks.file_digest.cache_clear()


def test_normals_only_trains_on_half_of_them_and_tests_on_the_rest(folder, clothes):
    sample = sample_of(folder, NORMALS_ONLY, "45_wine")
    assert len(sample.train) == 450 and len(sample.test) == 450 + 100
    assert sample.strange.sum() == 100 and sample.train.dtype == np.float32
    strange = clothes[::10].mean(2).reshape(100, 28).astype(np.float32)
    assert np.array_equal(sample.test[sample.strange], strange)
    rows = np.concatenate([sample.train, sample.test])
    assert len(np.unique(rows, axis=0)) == len(np.unique(clothes.mean(2)[..., 0], axis=0))
    assert not np.array_equal(sample.train, sample_of(folder, NORMALS_ONLY, "45_wine", 1).train)


def test_unsupervised_trains_and_tests_on_everything(folder):
    sample = sample_of(folder, UNSUPERVISED, "45_wine")
    assert sample.test is sample.train and len(sample.train) == 1000
    assert np.array_equal(sample.strange, np.arange(1000) % 10 == 0)


def test_large_tables_are_subsampled_with_their_share_of_anomalies(folder, monkeypatch):
    monkeypatch.setattr(tasks, "LARGEST_TABLE", 500)
    sample = sample_of(folder, UNSUPERVISED, "45_wine")
    assert len(sample.train) == 500 and sample.strange.sum() == 50


def test_tiles_of_one_piece_are_never_on_both_sides(tmp_path, clothes):
    """Pieces of three tiles, a grey level each; pieces 0 and 1 have a tile with a defect."""
    rows = []
    with zipfile.ZipFile(tmp_path / "magnetic_tile_A.zip", "w") as archive:
        for number in range(30):
            group = number // 3
            kind = "MT_Crack" if number in (0, 3) else "MT_Free"
            mask = np.zeros((40, 60), np.uint8)
            mask[5, 7 : 7 + 10 * (kind == "MT_Crack")] = 255  # too thin for half of a pixel
            for ending, image in (("jpg", np.full((40, 60), 20 * group, np.uint8)), ("png", mask)):
                content = io.BytesIO()
                Image.fromarray(image).save(content, {"jpg": "JPEG", "png": "PNG"}[ending])
                archive.writestr(f"{kind}/{number}.{ending}", content.getvalue())
            rows.append({"file": f"{kind}/{number}.jpg", "group": group})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["file", "group"])
        writer.writeheader()
        writer.writerows(rows)
        archive.writestr("groups.csv", text.getvalue())
    sample = sample_of(tmp_path, "magnetic tile", "tiles")
    levels = [np.unique(np.rint(part.mean((1, 2, 3)) / 20)) for part in (sample.train, sample.test)]
    assert not np.intersect1d(*levels).size and {0, 1} <= set(levels[1])
    assert len(levels[0]) == round(0.7 * 8) and sample.train.shape[1:] == (128, 128, 1)
    assert sample.strange.sum() == 2
    assert np.array_equal(sample.strange, sample.masks.any((1, 2)))
    other = sample_of(tmp_path, "magnetic tile", "tiles", 1)
    assert not np.array_equal(other.train, sample.train)


def test_rows_that_are_trained_on_are_not_their_own_neighbours(clothes):
    rows = clothes[:50].reshape(50, -1).astype(np.float32)
    rows[-1] += 500  # far away, also from itself if that counts for nothing
    sample = Sample(rows, rows, np.arange(50) == 49)
    task = Task("adbench, test", "part", 0, "digest", "same", lambda: sample)
    found = {cell.key["method"]: cell.measure() for cell in classic_cells(task)}
    assert found["kNN"].judged == found["kNN, min-max"].judged == 1


def test_classic_methods_find_letters_among_clothes(clothes, letters):
    test = np.concatenate([clothes[500:600], letters[:100]])
    sample = Sample(clothes[:500], test, np.arange(200) >= 100)
    task = Task("other data", "letters", 0, "digest", "same", lambda: sample)
    found = {cell.key["method"]: cell.measure() for cell in classic_cells(task)}
    assert found["kNN"].judged > 0.9 and found["PCA"].judged > 0.9
    assert found["PCA"].facts["components"] < 300
