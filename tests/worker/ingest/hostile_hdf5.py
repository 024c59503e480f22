"""Hostile HDF5 files: every attack at every place that a reader looks at, in every layout that is HDF5."""

import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile
from tests.worker.ingest.ingest_examples import example_recording, write_lfads_hdf5

Attack = Callable[[h5py.Group, str, Canary], object]

RANDOM = np.random.default_rng(0)
SPIKES = RANDOM.poisson(0.3, (6, 10, 5)).astype(np.uint8)
TIMES = np.sort(RANDOM.random((5, 40)) * 6, axis=1)


def lfads(path: Path) -> None:
    """An LFADS file."""
    write_lfads_hdf5(path, example_recording())


def plain(path: Path) -> None:
    """Counts of no known layout."""
    with h5py.File(path, "w") as file:
        file["spikes"], file["bin_width_s"] = SPIKES, 0.01
        file["session/position"] = RANDOM.random((6, 10, 2))


def nwb(path: Path) -> None:
    """A small NWB file, by hand."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"nwb_version": "2.7.0", "neurodata_type": "NWBFile", "namespace": "core"})
        file["session_start_time"] = "2024-01-01T00:00:00+00:00"
        file["identifier"] = "a"
        units = file.create_group("units")
        units.attrs.update({"neurodata_type": "Units", "colnames": ["spike_times"], "namespace": "core"})
        units["id"] = np.arange(5)
        units["spike_times"] = TIMES.ravel()
        units["spike_times_index"] = np.arange(1, 6, dtype=np.uint32) * 40
        units["spike_times_index"].attrs.update({"neurodata_type": "VectorIndex", "namespace": "hdmf-common"})
        units["spike_times_index"].attrs["target"] = units["spike_times"].ref
        trials = file.create_group("intervals/trials")
        columns = ["start_time", "stop_time", "outcome"]
        trials.attrs.update({"neurodata_type": "TimeIntervals", "colnames": columns, "namespace": "core"})
        trials["id"] = np.arange(6)
        trials["start_time"], trials["stop_time"] = np.arange(6.0), np.arange(6.0) + 0.8
        trials.create_dataset("outcome", data=["a", "b"] * 3, dtype=h5py.string_dtype())
        series = file.create_group("processing/behavior/Position/hand")
        series.attrs.update({"neurodata_type": "SpatialSeries", "namespace": "core"})
        series["data"], series["timestamps"] = RANDOM.random((600, 2)), np.arange(600) / 100


def matlab73(path: Path) -> None:
    """What `save -v7.3` writes: a block of the user's before HDF5, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["spikes"] = SPIKES.T
        file["spikes"].attrs["MATLAB_class"] = np.bytes_("uint8")
        file["bin_width_s"] = np.array([[0.01]])
        file["bin_width_s"].attrs["MATLAB_class"] = np.bytes_("double")
        cells = [file.create_dataset(f"#refs#/{name}", data=TIMES[:1].T) for name in "abcde"]
        for cell in cells:
            cell.attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("times", data=[[cell.ref for cell in cells]], dtype=h5py.ref_dtype)
        file["times"].attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def nlb(path: Path) -> None:
    """The Neural Latents Benchmark's layout."""
    with h5py.File(path, "w") as file:
        for part in ("train", "eval"):
            file[f"{part}_spikes_heldin"] = SPIKES
            file[f"{part}_spikes_heldout"] = SPIKES[:, :, :2]
        file["train_behavior"] = RANDOM.random((6, 10, 2))


LAYOUTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "lfads_hdf5": (lfads, ("train_data", "train_extra")),
    "hdf5": (plain, ("spikes", "session/position")),
    "nwb": (
        nwb,
        ("units/spike_times", "units/spike_times_index", "intervals/trials/start_time",
         "processing/behavior/Position/hand/data", "units/id"),
    ),
    "matlab": (matlab73, ("spikes", "times", "#refs#/a")),
    "nlb_hdf5": (nlb, ("train_spikes_heldin",)),
}  # fmt: skip
"""Format → how to write a valid file, and the places in it where an attack goes."""


def virtual(group: h5py.Group, name: str, canary: Canary) -> None:
    layout = h5py.VirtualLayout((40, 4, 3), "u1")
    layout[:] = h5py.VirtualSource(canary.hdf5, "secret", (40, 4, 3))
    group.create_virtual_dataset(name, layout)


def with_filter(code: int, values: tuple[int, ...], group: h5py.Group, name: str, _: Canary) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((3, 5, 5))
    properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
    space = h5py.h5s.create_simple((6, 10, 5))
    data = h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_INT32, space, properties)
    data.write_direct_chunk((0, 0, 0), b"x\x9c" + bytes(range(100)), 0)


def bomb(group: h5py.Group, name: str, _: Canary) -> None:
    group.create_dataset(name, (2**9, 2**10, 2**10), "u1", chunks=(16, 2**10, 2**10), compression=9)
    group[name][:16] = 0


def chunk_that_lies(group: h5py.Group, name: str, _: Canary) -> None:
    data = group.create_dataset(name, (6, 10, 5), "u1", chunks=(6, 10, 5), compression=9)
    data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**26), 9), 0)


def soft_into_external(group: h5py.Group, name: str, canary: Canary) -> None:
    group.file["elsewhere"] = h5py.ExternalLink(canary.hdf5, "/")
    group[name] = h5py.SoftLink("/elsewhere/secret")


def circle(group: h5py.Group, name: str, _: Canary) -> None:
    inner = group.create_group(name)
    inner["self"], inner["up"] = inner, group.file["/"]
    inner["soft"] = h5py.SoftLink(f"{inner.name}/soft")


def references_to_self(group: h5py.Group, name: str, _: Canary) -> None:
    data = group.create_dataset(name, (5, 1), h5py.ref_dtype)
    data.attrs["MATLAB_class"] = np.bytes_("cell")
    data[:] = np.full((5, 1), data.ref, dtype=object)


def references_to_root(group: h5py.Group, name: str, _: Canary) -> None:
    data = group.create_dataset(name, (5,), h5py.ref_dtype)
    data[:] = np.full(5, group.file["/"].ref, dtype=object)
    data.attrs["target"] = data.ref


def references_that_dangle(group: h5py.Group, name: str, _: Canary) -> None:
    doomed = group.create_dataset("doomed", (3,), "f8")
    references = np.full(5, doomed.ref, dtype=object)
    group.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    del group["doomed"]


def region_references(group: h5py.Group, name: str, _: Canary) -> None:
    target = group.create_dataset("target", (1000, 1000), "u1")
    data = group.create_dataset(name, (5,), h5py.regionref_dtype)
    data[:] = np.full(5, target.regionref[::2, ::2], dtype=object)


def deep(depth: int, group: h5py.Group, name: str, _: Canary) -> None:
    inner = group.create_group(name).id
    for _ in range(depth):
        inner = h5py.h5g.create(inner, b"a")


def many_links(number: int, group: h5py.Group, name: str, _: Canary) -> None:
    inner = group.create_group(name)
    target = inner.create_dataset("0", data=SPIKES).id
    for link in range(number):
        inner.id.links.create_hard(str(link + 1).encode(), inner.id, b"0")
    assert target.valid


def many_objects(number: int, group: h5py.Group, name: str, _: Canary) -> None:
    inner = group.create_group(name)
    for one in range(number):
        inner[str(one)] = one


def huge_attributes(group: h5py.Group, name: str, _: Canary) -> None:
    data = group.create_dataset(name, data=SPIKES)
    for owner in (data, group, group.file):
        owner.attrs["big"] = np.zeros(7000)
        owner.attrs["text"] = "x" * 60_000
        for number in range(60):
            owner.attrs[f"a{number}"] = number
        owner.attrs["nested"] = np.zeros(1, np.dtype([("a", "V100"), ("b", "f4", (3, 3))]))
        owner.attrs["MATLAB_class"] = "x" * 10_000
        owner.attrs["MATLAB_fields"] = ["y" * 1000] * 50


def lying_attributes(group: h5py.Group, name: str, _: Canary) -> None:
    data = group.create_dataset(name, data=SPIKES)
    for owner in (data, group, group.file):
        for key in ("colnames", "MATLAB_class", "neurodata_type", "nwb_version", "target", "unit", "bin_width_s", "rate",
                    "conversion", "starting_time", "MATLAB_empty", "MATLAB_int_decode"):  # fmt: skip
            owner.attrs[key] = np.array([np.nan, np.inf, -1e308])


def expanding_texts(number: int, group: h5py.Group, name: str, _: Canary) -> None:
    group.create_dataset(name, (number,), h5py.string_dtype())[0] = "x" * 2**20


def typed(dtype: object, group: h5py.Group, name: str, _: Canary) -> None:
    group.create_dataset(name, (6, 10, 5), np.dtype(dtype))


def committed(group: h5py.Group, name: str, _: Canary) -> None:
    group.file["kind"] = np.dtype([("a", "f8"), ("b", "S5")])
    group[name] = group.file["kind"]


def absurd_values(group: h5py.Group, name: str, _: Canary) -> None:
    group[name] = np.resize([np.nan, np.inf, -np.inf, 1e308, -1e308, 2.0**63, 5e-324], (6, 10, 5))


def strange_names(group: h5py.Group, name: str, _: Canary) -> None:
    group[name] = SPIKES
    names = (b"<script>alert(1)", b"\xed\xa0\x80lone", b"\xff\xfe", "\u202egnirts".encode(), b"a\nb\r\x1b[31m",
             b"__proto__", b"constructor", b"n" * 60_000, b"...", b"%00", b"' OR 1=1 --")  # fmt: skip
    space = h5py.h5s.create_simple((6,))
    for strange in names:
        h5py.h5d.create(group.id, strange, h5py.h5t.NATIVE_DOUBLE, space)


ATTACKS: dict[str, tuple[Attack, str]] = {
    "external_link": (lambda g, n, c: g.__setitem__(n, h5py.ExternalLink(c.hdf5, "/secret")), "external_link"),
    "external_link_to_root": (lambda g, n, c: g.__setitem__(n, h5py.ExternalLink(c.hdf5, "/")), "external_link"),
    "external_link_to_url": (lambda g, n, c: g.__setitem__(n, h5py.ExternalLink(c.url, "/secret")), "external_link"),
    "external_storage": (
        lambda g, n, c: g.create_dataset(n, (40, 4, 3), "u1", external=[(c.text, 0, 480)]), "external_storage"),
    "external_storage_of_doubles": (
        lambda g, n, c: g.create_dataset(n, (60,), "f8", external=[(c.text, 0, 480)]), "external_storage"),
    "virtual": (virtual, "virtual_dataset"),
    "soft_into_external": (soft_into_external, "external_link"),
    "plugin": (partial(with_filter, 32001, (2, 2, 1, 20)), ""),
    "unknown_plugin": (partial(with_filter, 60_000, tuple(range(200))), ""),
    "deflate_level": (partial(with_filter, 1, (2**32 - 1,)), ""),
    "scaleoffset_parameters": (partial(with_filter, 6, (99, 2**31, *range(18))), ""),
    "nbit": (partial(with_filter, 5, (8, 0, 50, 1, 4, 0, 200, 77)), ""),
    "shuffle_parameters": (partial(with_filter, 2, (2**31,)), ""),
    "lzf_parameters": (partial(with_filter, 32000, (4, 0, 2**31)), ""),
    "bomb": (bomb, ""),
    "chunk_that_lies": (chunk_that_lies, ""),
    "sparse": (lambda g, n, c: g.create_dataset(n, (2**20, 2**20, 8), "u1", chunks=(1, 64, 8)), "file_too_large_expanded"),
    "sparse_column": (lambda g, n, c: g.create_dataset(n, (2**42,), "f8", chunks=(1024,)), "file_too_large_expanded"),
    "sparse_below_the_limit": (lambda g, n, c: g.create_dataset(n, (2**28,), "f8", chunks=(1024,)), ""),
    "sparse_beyond_64_bits": (
        lambda g, n, c: g.create_dataset(n, (2**62, 2**62, 8), "u1", chunks=(1, 64, 8)), "file_too_large_expanded"),
    "rank": (lambda g, n, c: g.create_dataset(n, (1,) * 32, "u1"), "absurd_shape"),
    "giant_chunk": (
        lambda g, n, c: g.create_dataset(n, (1, 1), "u1", maxshape=(None, None), chunks=(2**15, 2**15)), "absurd_shape"),
    "tiny_chunks": (lambda g, n, c: g.create_dataset(n, (300, 20, 5), "u1", chunks=(1, 1, 1)), ""),
    "empty_axes": (lambda g, n, c: g.create_dataset(n, (0, 2**40, 0), "f8"), ""),
    "no_elements": (lambda g, n, c: g.create_dataset(n, (0,), "f8"), ""),
    "scalar": (lambda g, n, c: g.__setitem__(n, 3.0), ""),
    "null_space": (lambda g, n, c: g.__setitem__(n, h5py.Empty("f4")), ""),
    "group_in_place_of_data": (lambda g, n, c: g.create_group(n), ""),
    "missing": (lambda g, n, c: None, ""),
    "circle": (circle, ""),
    "soft_circle": (lambda g, n, c: g.__setitem__(n, h5py.SoftLink(f"{g.name}/{n}")), ""),
    "soft_chain": (lambda g, n, c: [g.__setitem__(n if i == 0 else f"s{i}", h5py.SoftLink(f"s{i + 1}"))
                                    for i in range(200)], ""),
    "references_to_self": (references_to_self, ""),
    "references_to_root": (references_to_root, ""),
    "references_that_dangle": (references_that_dangle, ""),
    "null_references": (lambda g, n, c: g.create_dataset(n, (5, 1), h5py.ref_dtype), ""),
    "region_references": (region_references, ""),
    "many_links": (partial(many_links, 12_000), "too_many_arrays"),
    "deep": (partial(deep, 2_000), ""),
    "huge_attributes": (huge_attributes, ""),
    "lying_attributes": (lying_attributes, ""),
    "vlen_numbers": (lambda g, n, c: g.create_dataset(n, (6, 10, 5), h5py.vlen_dtype(np.float64)), ""),
    "vlen_of_vlen": (lambda g, n, c: g.create_dataset(n, (5,), h5py.vlen_dtype(h5py.vlen_dtype(np.int8))), ""),
    "vlen_texts": (lambda g, n, c: g.create_dataset(n, data=["\u202e<b>" * 999] * 60, dtype=h5py.string_dtype()), ""),
    "giant_text": (lambda g, n, c: g.create_dataset(n, (40,), "S1000000"), ""),
    "compound": (partial(typed, [("a", "f8"), ("b", "S5"), ("c", "i4", (3,))]), ""),
    "compound_of_references": (partial(typed, np.dtype([("r", h5py.ref_dtype), ("i", "i4")])), ""),
    "opaque": (partial(typed, "V1000"), ""),
    "array_type": (lambda g, n, c: h5py.h5d.create(
        g.id, n.encode(), h5py.h5t.array_create(h5py.h5t.NATIVE_INT32, (2**10, 2**10)), h5py.h5s.create_simple((9,))), ""),
    "enum": (partial(typed, h5py.enum_dtype({"a": 0, "b": 200}, "u1")), ""),
    "bool": (partial(typed, "?"), ""),
    "complex": (partial(typed, "c16"), ""),
    "half": (partial(typed, "f2"), ""),
    "long_double": (partial(typed, np.longdouble), ""),
    "big_endian": (partial(typed, ">i8"), ""),
    "fixed_text": (partial(typed, "S7"), ""),
    "committed_type": (committed, ""),
    "absurd_values": (absurd_values, ""),
    "largest_integers": (lambda g, n, c: g.__setitem__(n, np.full((6, 10, 5), 2**64 - 1, np.uint64)), ""),
    "negative_integers": (lambda g, n, c: g.__setitem__(n, np.full((6, 10, 5), -(2**63), np.int64)), ""),
    "strange_names": (strange_names, ""),
}  # fmt: skip
"""Name → what to put in a place, and the code that it must be refused with (any if empty)."""

SLOW_ATTACKS: dict[str, Attack] = {
    "deep_100000": partial(deep, 100_000),
    "many_links_300000": partial(many_links, 300_000),
    "many_objects": partial(many_objects, 20_000),
}


def build(layout: str, place: str, attack: Attack, path: Path, canary: Canary) -> None:
    """Write a valid file of a layout, then put the attack in a place of it."""
    LAYOUTS[layout][0](path)
    with h5py.File(path, "r+") as file:
        group, _, name = place.rpartition("/")
        parent = file.require_group(group) if group else file
        if name in parent:
            del parent[name]
        attack(parent, name, canary)


def patched(
    layout: str, place: str, attack: Attack, old: bytes, new: bytes, path: Path, canary: Canary
) -> None:
    """As `build`; then change bytes of the file, where the library itself would not write them."""
    build(layout, place, attack, path, canary)
    content = path.read_bytes()
    changed = re.sub(old, lambda _: new, content, flags=re.DOTALL)
    assert changed != content
    path.write_bytes(changed)


def texts_of_one_heap_object(
    layout: str, place: str, number: int, length: int, path: Path, canary: Canary
) -> None:
    """Strings of variable length, all of which are one and the same long string of the file."""

    def attack(group: h5py.Group, name: str, _: Canary) -> None:
        data = group.create_dataset(name, (number,), h5py.string_dtype())
        data[0] = "x" * length
        spot.append(data.id)
        group.file.flush()
        offsets.append(data.id.get_offset() + group.file.userblock_size)

    spot: list[object] = []
    offsets: list[int] = []
    build(layout, place, attack, path, canary)
    with path.open("r+b") as file:
        file.seek(offsets[0])
        first = file.read(16)
        file.seek(offsets[0])
        file.write(first * number)


def spike_index(values: np.ndarray, path: Path, canary: Canary) -> None:
    """An NWB file whose ends of neurons among spike times are as given."""
    build("nwb", "units/spike_times_index", lambda g, n, c: g.__setitem__(n, values), path, canary)


def external_images(path: Path, canary: Canary) -> None:
    """An NWB series whose samples are said to lie in other files."""
    nwb(path)
    with h5py.File(path, "r+") as file:
        series = file.create_group("acquisition/video")
        series.attrs.update({"neurodata_type": "ImageSeries", "namespace": "core"})
        names = [canary.text, canary.url, "../../secret"]
        series.create_dataset("external_file", data=names, dtype=h5py.string_dtype())
        series["external_file"].attrs["starting_frame"] = [0, 1, 2]
        series["format"], series["timestamps"] = "external", np.arange(3.0)


INDEXES: dict[str, np.ndarray] = {
    "not_rising": np.array([40, 20, 120, 10, 200], np.uint32),
    "beyond_the_end": np.array([40, 80, 120, 160, 2**31], np.uint32),
    "giant": np.full(5, 2**64 - 1, np.uint64),
    "negative": np.array([-5, -4, -3, -2, -1]),
    "floats": np.array([40, 80, np.nan, np.inf, 200]),
    "zeros": np.zeros(5, np.int64),
    "many_neurons": np.minimum(np.arange(2_000_000), 200).astype(np.uint32),
    "two_axes": np.full((5, 5), 40),
    "texts": np.array([b"40"] * 5),
}


def hdf5_corpus() -> Corpus:
    """Every attack at every place of every layout."""
    for layout, (_, places) in LAYOUTS.items():
        for place in places:
            where = f"{layout}:{place}"
            for name, (attack, code) in ATTACKS.items():
                codes = frozenset({code} if code and not place.startswith("#refs#") else ())
                yield HostileFile(f"{where}:{name}", layout, partial(build, layout, place, attack), codes)
            yield from _patched_corpus(layout, place, where)
        for name, slow in SLOW_ATTACKS.items():
            yield HostileFile(f"{layout}:{name}", layout, partial(build, layout, "deep", slow), is_slow=True)
    for name, values in INDEXES.items():
        yield HostileFile(f"nwb:spike_times_index:{name}", "nwb", partial(spike_index, values))
    yield HostileFile("nwb:external_file", "nwb", external_images)


def _patched_corpus(layout: str, place: str, where: str) -> Corpus:
    def marked(group: h5py.Group, name: str, _: Canary) -> None:
        group.create_dataset(name, (0x1A2B3C, 3), "u1", maxshape=(None, None), chunks=(64, 3))

    mark = (0x1A2B3C).to_bytes(8, "little")
    for kind, dim in {"negative": 2**64 - 2, "overflowing": 2**63 + 1, "giant": 2**50}.items():
        new = dim.to_bytes(8, "little")
        yield HostileFile(
            f"{where}:{kind}_dim", layout, partial(patched, layout, place, marked, re.escape(mark), new)
        )
    external = ATTACKS["external_link"][0]
    yield HostileFile(
        f"{where}:user_defined_link",
        layout,
        partial(patched, layout, place, external, rb"(?<=\x01)[\x08\x18]\x40", b"\x08\x41"),
    )
    yield HostileFile(
        f"{where}:one_heap_object",
        layout,
        partial(texts_of_one_heap_object, layout, place, 5_000, 2**20),
    )
