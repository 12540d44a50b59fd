"""A reader written from FORMAT.md alone, in integers, against what the writer makes."""

import hashlib
import io
import json
import lzma
import math
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx.reference import ReferenceEvaluator
from PIL import Image

from compressor.archive.blocks import CodedImages, CodeGroup
from compressor.archive.fallback import Fallback
from compressor.archive.fallback_blocks import StoredGroup
from compressor.archive.reader import Archive
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.bottleneck.bottleneck import Bottleneck
from compressor.bottleneck.hyperprior import SCALES
from compressor.codecs.image_codecs import IMAGE_CODECS
from compressor.data.images import Group
from compressor.entropy.coder import encode
from compressor.entropy.hyperprior import HyperTables
from compressor.entropy.networks import OnnxNetworks
from compressor.entropy.prior import Prior
from compressor.export.hyperprior import export_hyperprior
from compressor.manifests import file_entries
from compressor.model import Model, ModelManifest, PluginEntry, manifest_files
from compressor.packing import pack
from compressor.spec import CodeSpec, VectorSpec


def read_tables(content, at, count):
    lows = struct.unpack_from(f"<{count}i", content, at)
    sizes = struct.unpack_from(f"<{count}H", content, at + 4 * count)
    at += 6 * count
    tables = []
    for low, size in zip(lows, sizes, strict=True):
        tables.append((low, struct.unpack_from(f"<{size}H", content, at)))
        at += 2 * size
    return tables, at


def read_prior(content):
    magic, version, rank, per_element, zero = struct.unpack_from("<4sBBBB", content)
    assert (magic, version, zero) == (b"CPRI", 1, 0)
    shape = struct.unpack_from(f"<{rank}I", content, 8)
    count = per_element * math.prod(shape) + (shape[0] if rank == 3 else 0)
    tables, end = read_tables(content, 8 + 4 * rank, count)
    assert end == len(content)
    return shape, per_element, tables


class Stream:
    """The payload's symbols, one after the other."""

    def __init__(self, payload):
        self.words = list(struct.unpack(f"<{len(payload) // 4}I", payload))
        self.state = 0
        self.refill()
        self.refill()

    def refill(self):
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def symbol(self, frequencies):
        q, below, found = self.state % (1 << 24), 0, 0
        while q >= below + 256 * frequencies[found]:
            below += 256 * frequencies[found]
            found += 1
        self.state = 256 * frequencies[found] * (self.state >> 24) + q - below
        self.refill()
        return found

    def escaped(self):
        uniform = [1] * 65536
        z = self.symbol(uniform)
        z += self.symbol(uniform) << 16
        return -(z + 1) // 2 if z % 2 else z // 2

    def end(self):
        assert self.state == 0 and not self.words


def read_packed(content):
    length, of_payload, count = struct.unpack_from("<3I", content)
    rest = lzma.decompress(content[12 : 12 + length])
    payload, low = content[12 + length :][:of_payload], content[12 + length + of_payload :]
    if not count:
        return rest
    tensors = [struct.unpack_from("<4IB", rest, 17 * number) for number in range(count)]
    at, exponents = 17 * count, []
    for _, _, columns, _, _ in tensors:
        exponents.append(struct.unpack_from(f"<{columns}h", rest, at))
        at += 2 * columns
    tables, at = read_tables(rest, at, count)
    stream, integers, escapes = Stream(payload), [], []
    for (_, rows, columns, cell, _), (lowest, frequencies) in zip(tensors, tables, strict=True):
        integers.append([])
        for place in range(rows * columns * cell):
            found = stream.symbol(frequencies)
            integers[-1].append(lowest + found)
            if found == len(frequencies) - 1:
                escapes.append((integers[-1], place))
    for own, place in escapes:
        own[place] = stream.escaped()
    stream.end()
    file = b""
    for (start, _, columns, cell, bits), own, powers in zip(
        tensors, integers, exponents, strict=True
    ):
        between = start - len(file)
        file, at = file + rest[at : at + between], at + between
        string = "".join(f"{byte:08b}" for byte in low[: -(-bits * len(own) // 8)])
        low = low[len(string) // 8 :]
        for place, high in enumerate(own):
            value = high << bits | int("0" + string[place * bits : (place + 1) * bits], 2)
            file += struct.pack("<f", value * 2.0 ** powers[place // cell % columns])
    return file + rest[at:]


def read_elements(stream, count, shape, prior):
    learned, per_element, tables = prior
    out = np.zeros((math.prod(shape), count), np.int64)
    escapes = []
    for element in range(len(out)):
        table = element
        if not (per_element and shape == learned):
            channel = element // (shape[1] * shape[2])
            table = per_element * math.prod(learned) + channel
        low, frequencies = tables[table]
        for image in range(count):
            found = stream.symbol(frequencies)
            out[element, image] = low + found
            if found == len(frequencies) - 1:
                escapes.append((element, image))
    for place in escapes:
        out[place] = stream.escaped()
    return out.T.reshape(count, *shape)


def read_payload(payload, count, shape, prior):
    stream = Stream(payload)
    codes = read_elements(stream, count, shape, prior)
    stream.end()
    return codes


def read_hyperprior(content):
    magic, version, rank, *zeros = struct.unpack_from("<4sBBBB", content)
    assert (magic, version, zeros) == (b"CPRI", 2, [0, 0])
    channels, number = struct.unpack_from("<IH", content, 8)
    choice = np.frombuffer(content, "<u2", 256, 14).reshape(32, 8)
    tables, end = read_tables(content, 14 + 512, number)
    return rank, channels, choice, tables, read_prior(content[end:])


def read_payload_with_hyperprior(payload, count, shape, content, graph):
    """With ONNX's reference evaluator, which sums in another order than ONNX Runtime."""
    rank, channels, choice, tables, first = read_hyperprior(content)
    assert channels == shape[0]
    stream = Stream(payload)
    side_shape = (first[0][0], *(math.ceil(size / 4) for size in shape[1:]))
    side = read_elements(stream, count, side_shape, first)
    side = side.reshape(*side.shape, *[1] * (3 - rank))
    known = np.concatenate([side, np.ones_like(side[:, :1])], 1).astype(np.float32)
    (expected,) = ReferenceEvaluator(onnx.load_from_string(graph)).run(None, {"side": known})
    codes = np.zeros((count, *shape, *[1] * (3 - rank)), np.int64)
    expected = expected[:, :, : codes.shape[2], : codes.shape[3]].astype(np.int64)
    location, level = np.split(expected, 2, axis=1)
    whole = (location + 4) // 8
    table = choice[level.clip(0, 31), location - 8 * whole + 4]
    here = codes.shape[1:]
    order = sorted(np.ndindex(*here, count), key=lambda p: (table[(p[3], *p[:3])], p))
    escapes = []
    for *element, image in order:
        at = (image, *element)
        low, frequencies = tables[table[at]]
        found = stream.symbol(frequencies)
        codes[at] = (whole[at] + low + found + 2**31) % 2**32 - 2**31
        if found == len(frequencies) - 1:
            escapes.append((element, image))
    for element, image in sorted(escapes):
        codes[(image, *element)] = stream.escaped()
    stream.end()
    return codes.reshape(count, *shape)


@pytest.mark.parametrize("shape", [(37,), (4, 3, 5)])
def test_payloads_with_a_hyperprior_decode_as_the_format_says(shape):
    torch.manual_seed(0)
    bottleneck = Bottleneck(shape, "hyperprior", 0.01)
    with torch.no_grad():
        for parameter in bottleneck.prior.parameters():
            parameter.mul_(3)
    random = np.random.default_rng(0)
    codes = random.integers(-9, 10, (50, *shape)).astype(np.int32)
    graphs = export_hyperprior(bottleneck.prior)
    files = {f"{name}.onnx": graph.SerializeToString() for name, graph in graphs.items()}
    side, reach = bottleneck.prior.density.channels, bottleneck.prior.decoder.reach
    networks = OnnxNetworks(shape[0], side, reach, files.__getitem__)
    prior = HyperTables.learn(codes, SCALES, networks)
    few = codes[:6].copy()
    few[random.random(few.shape) < 0.1] = random.choice([2**31 - 1, -(2**31), 700])
    graph = files["hyper_decoder.onnx"]
    decoded = read_payload_with_hyperprior(encode(few, prior), 6, shape, prior.to_bytes(), graph)
    assert np.array_equal(decoded, few)


values = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**31), 2**31 - 1]))


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(np.int32, (6, 2, 2, 1), elements=values),
    st.sampled_from([(2, 2, 1), (2, 1, 3)]).flatmap(
        lambda shape: arrays.arrays(np.int32, (3, *shape), elements=values)
    ),
)
def test_payloads_decode_as_the_format_says(learned, codes):
    prior = Prior.learn(learned)
    decoded = read_payload(encode(codes, prior), 3, codes.shape[1:], read_prior(prior.to_bytes()))
    assert np.array_equal(decoded, codes)


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


CODECS = {
    b"CBw\x02": "webp-lossless",
    b"CBv\x02": "webp",
    b"CBx\x02": "jpegxl-lossless",
    b"CBj\x02": "jpegxl",
    b"CBp\x02": "png",
}


def read_files(payload, count, codec, shape):
    lengths = struct.unpack_from(f"<{count}I", payload)
    at = 4 * count
    images = []
    for length in lengths:
        file = payload[at : at + length]
        if codec.startswith("jpegxl"):
            pixels = imagecodecs.jpegxl_decode(file)
        else:
            with Image.open(io.BytesIO(file)) as image:
                assert image.format == codec.removesuffix("-lossless").upper()
                pixels = np.asarray(image)
        pixels = pixels.reshape(*shape[:2], -1)
        if codec.startswith("webp") and shape[2] == 1:
            assert pixels.shape[2] == 3
            pixels = pixels[:, :, :1]
        if shape[2] == 4 and pixels.shape[2] == 3:
            pixels = np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], axis=2)
        images.append(pixels)
        at += length
    assert at == len(payload)
    return np.stack(images)


def read_archive(path):
    """The manifest, the items, and the code of each, names to int (*code shape); or its pixels."""
    text = (path / "manifest.json").read_bytes()
    expected = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    assert (path / "manifest.sha256").read_text() == expected
    manifest = json.loads(text)
    assert (manifest["format"], manifest["format_version"]) == ("compressor-archive", 4)
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    model = json.loads((path / "model" / "manifest.json").read_text())
    hashes = {name: entry["sha256"] for name, entry in model["files"].items()}
    identity = {"code": model["code"], "data": model["data"], "files": hashes}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    assert manifest["model"] == digest and manifest["data"] == model["data"]
    prior = read_prior(read_packed((path / "model" / "prior.bin.packed").read_bytes()))

    frames = (path / "blocks" / "part-00000.bin").read_bytes()
    index = pq.read_table(path / "blocks" / "part-00000.parquet").to_pylist()
    channels = manifest["data"].get("channels")
    blocks = []
    end = 0
    for number, row in enumerate(index):
        assert row["offset"] == end
        magic, *header = struct.unpack_from("<4s9I", frames, end)
        codec = "model" if magic == b"CBk\x02" else CODECS[magic]
        own, length, count, height, width, payload_crc, content_crc, archive, header_crc = header
        assert (own, archive) == (number, manifest["id"])
        sizes = {"length": length, "count": count, "height": height, "width": width}
        assert row == {"offset": end, **sizes, "codec": codec}
        assert header_crc == crc32c(frames[end : end + 36])
        payload = frames[end + 40 : end + 40 + length]
        assert payload_crc == crc32c(payload)
        shape, stride = tuple(model["code"]["shape"]), model["code"]["stride"]
        if stride is not None:
            shape = (shape[0], -(-height // stride), -(-width // stride))
        if codec == "model":
            blocks.append(read_payload(payload, count, shape, prior))
            assert content_crc == crc32c(blocks[-1].astype("<i4").tobytes())
        else:
            blocks.append(read_files(payload, count, codec, (height, width, channels)))
            lossless = codec not in ("webp", "jpegxl")
            assert content_crc == (crc32c(blocks[-1].tobytes()) if lossless else 0)
        end += 40 + length
    assert end == len(frames)

    table = pq.read_table(path / "items" / "part-00000.parquet")
    assert table.schema.metadata[b"archive"] == str(manifest["id"]).encode()
    items = table.to_pylist()
    assert manifest["parts"] == [{"images": len(items), "blocks": len(index)}]
    assert manifest["images"] == len(items)
    return manifest, items, {row["path"]: blocks[row["block"]][row["index"]] for row in items}


def test_graphs_are_unpacked_as_the_format_says(dense_model):
    golden = Path(__file__).parents[1] / "golden" / "2-hyperprior" / "model"
    for trained, name in ((dense_model, "decoder.onnx"), (golden, "hyper_decoder.onnx")):
        content = Model.open(trained).read(name)
        packed = pack(content)
        assert struct.unpack_from("<3I", packed)[2] > 2, "tensors are packed as integers"
        assert read_packed(packed) == content
        assert len(packed) < 0.9 * len(lzma.compress(content))
    assert read_packed(pack(b"anything else")) == b"anything else"


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_reads_as_the_format_says(tmp_path, mixed, write, whole):
    some = dict(list(mixed.items())[: 40 if whole else 3])
    write(tmp_path, some, force=True)
    manifest, items, codes = read_archive(tmp_path)
    assert list(codes) == list(some)
    assert manifest["data"]["kind"] == "image"
    for row in items:
        code = codes[row["path"]]
        assert np.array_equal(code, some[row["path"]])
        assert (row["height"], row["width"]) == (7 * code.shape[1], 7 * code.shape[2])
        assert row["channels"] == 1


def test_images_of_every_fallback_codec_read_as_the_format_says(tmp_path, images, mixed, model):
    clothes = images[:26, :, :, None]
    stored = [
        group
        for number, name in enumerate(CODECS.values())
        if name != "png"
        for group in Fallback(name, 30).store(
            Group(np.arange(5 * number, 5 * number + 5), clothes[5 * number : 5 * number + 5])
        )
    ]
    assert [group.codec for group in stored] == list(CODECS.values())[:4]
    last = clothes[20:25]
    files = [IMAGE_CODECS["png"].encode(image, 0) for image in last]
    stored.append(StoredGroup(np.arange(20, 25), "png", files, last, last))
    code = next(iter(mixed.values()))
    chunk = CodedImages(
        [f"{number}.png" for number in range(26)],
        [CodeGroup(np.array([25]), 28, 28, code[None])],
        {},
    )
    with ArchiveWriter(tmp_path / "a", model, {"source": "test"}) as writer:
        writer.add(pack_images(chunk, model.prior, stored))
    _, items, found = read_archive(tmp_path / "a")
    codecs = [codec for codec in CODECS.values() for _ in range(5)]
    assert [row["codec"] for row in items] == [*codecs, "model"]
    assert np.array_equal(found["25.png"], code)
    (segment,) = Archive.open(tmp_path / "a").segments()
    ours = {
        int(position): pixels
        for group in segment.load().stored
        for position, pixels in zip(group.positions, group.pixels, strict=True)
    }
    for number, codec in enumerate(codecs):
        assert np.array_equal(found[f"{number}.png"], ours[number])
        assert np.array_equal(found[f"{number}.png"], clothes[number]) == (
            codec not in ("webp", "jpegxl")
        )


def test_an_archive_of_vectors_reads_as_the_format_says(tmp_path, images):
    greys = images[:300].mean(2)  # of each row of pixels
    codes = (greys.reshape(300, 4, 7).mean(2) // 8).astype(np.int32)
    columns = tuple(f"größe {number}" for number in range(28))
    scale = (1e-7, *greys.std(0).tolist()[1:])
    spec = VectorSpec(length=28, mean=greys.mean(0).tolist(), scale=scale, columns=columns)
    (tmp_path / "model").mkdir()
    contents = {
        "decoder.onnx": b"\x3a\x08\x0a\x06\x22\x04Relu",
        "prior.bin": Prior.learn(codes).to_bytes(),
    }
    manifest = ModelManifest(
        plugin=PluginEntry(name="rows", distribution="tests", version="1"),
        data=spec,
        code=CodeSpec(shape=(4,)),
        files=file_entries(contents),
    )
    for name, content in {**contents, **manifest_files(manifest)}.items():
        (tmp_path / "model" / name).write_bytes(content)
    model = Model.open(tmp_path / "model")
    names = [f"case {number}" for number in range(300)]
    with ArchiveWriter(tmp_path / "a", model, {"source": "test"}) as writer:
        for start in (0, 256):
            some = codes[start : start + 256]
            group = CodeGroup(np.arange(len(some)), 1, 28, some)
            chunk = CodedImages(names[start : start + 256], [group], {})
            writer.add(pack_images(chunk, model.prior))

    told, items, found = read_archive(tmp_path / "a")
    assert told["data"] == json.loads(spec.model_dump_json())
    assert set(told["data"]) == {"kind", "length", "mean", "scale", "columns", "stride"}
    assert (told["data"]["kind"], told["data"]["stride"]) == ("vector", None)
    assert list(found) == names
    assert np.array_equal(np.stack(list(found.values())), codes)
    sizes = {(row["height"], row["width"], row["channels"]) for row in items}
    assert sizes == {(1, 28, 1)}
