"""Hostile archives: NPZ, and sorters' folders as ZIP (Phy)."""

import io
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile

Members = dict[str, bytes]
COUNTS = np.random.default_rng(0).poisson(0.3, (6, 10, 5)).astype(np.uint8)


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    """An array as NPY."""
    buffer = io.BytesIO()
    np.save(buffer, np.asanyarray(array), allow_pickle=allow_pickle)
    return buffer.getvalue()


def npy_header(shape: str, dtype: str = "'|u1'", length: int | None = None) -> bytes:
    """An NPY header with any text in place of shape and dtype."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    if len(padded) > 65_535:
        return b"\x93NUMPY\x02\x00" + (length or len(padded)).to_bytes(4, "little") + padded
    return b"\x93NUMPY\x01\x00" + (length or len(padded)).to_bytes(2, "little") + padded


def phy_members(**changes: bytes) -> Members:
    """What Kilosort and Phy leave in a folder."""
    random = np.random.default_rng(0)
    params = (
        b"dat_path = 'recording.dat'\nn_channels_dat = 4\ndtype = 'int16'\noffset = 0\nsample_rate = 30000.\n"
    )
    members = {
        "params.py": params,
        "spike_times.npy": npy(np.sort(random.integers(0, 300_000, 500))),
        "spike_clusters.npy": npy(random.integers(0, 6, 500, np.int32)),
        "cluster_group.tsv": b"cluster_id\tgroup\n" + b"".join(b"%d\tgood\n" % n for n in range(6)),
    }
    return members | {name.replace("__", "."): content for name, content in changes.items()}


def npz_members(**changes: bytes) -> Members:
    """A small recording of counts."""
    members = {"spikes.npy": npy(COUNTS), "bin_width_s.npy": npy(0.01)}
    return members | {f"{name}.npy": content for name, content in changes.items()}


def archive(
    members: Members, path: Path, _: Canary | None = None, method: int = zipfile.ZIP_DEFLATED
) -> None:
    """Write a ZIP archive."""
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(name, content)


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (Path(self.path),)


def pickled(name: str, base: Callable[..., Members], path: Path, canary: Canary) -> None:
    """Pickles that make the trap file when they are loaded: as an object array, and bare."""
    array = np.array([_Trap(canary.trap), None], dtype=object)
    members = base() | {name: npy(array, allow_pickle=True), "bare.npy": pickle.dumps(_Trap(canary.trap))}
    archive(members, path)


def bomb(base: Callable[..., Members], name: str, mebibytes: int, path: Path, _: Canary) -> None:
    """Zeros, a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for other, content in base().items():
            if other != name:
                opened.writestr(other, content)
        with opened.open(name, "w", force_zip64=True) as member:
            member.write(npy_header(f"({mebibytes}, 1024, 1024)"))
            for _block in range(mebibytes):
                member.write(bytes(2**20))


def nested(depth: int, path: Path, _: Canary) -> None:
    """Archives in archives."""
    content = npy(COUNTS)
    for _level in range(depth):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("spikes.npy", content)
            opened.writestr("again.zip", content)
        content = buffer.getvalue()
    path.write_bytes(content)


def overlapping(number: int, path: Path, _: Canary) -> None:
    """Entries that quote the headers of all entries after them, and share one body."""
    body = npy_header("(4096, 256, 1)") + bytes(2**20)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail, inside = packed.compress(body) + packed.flush(), body
    central, whole = b"", tail
    for one in reversed(range(number)):
        name = b"a%d.npy" % one
        fields = (20, 0, 8, 0, 33, zlib.crc32(inside), len(whole), len(inside), len(name), 0)
        header = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name
        entry = struct.pack("<4sH5H3I2H", b"PK\x01\x02", 20, *fields) + struct.pack("<3H2I", 0, 0, 0, 0, 0)
        central = entry[:42] + struct.pack("<I", 0xFFFFFFF0 - len(whole) - len(header)) + name + central
        quoted = b"\x00" + struct.pack("<HH", len(header), len(header) ^ 0xFFFF) + header
        first, whole, inside = header + whole, quoted + whole, header + inside
    begin = 0xFFFFFFF0 - len(first)
    fixed = bytearray(central)
    place = 0
    while place < len(fixed):
        at = struct.unpack_from("<I", fixed, place + 42)[0]
        struct.pack_into("<I", fixed, place + 42, at - begin)
        place += 46 + struct.unpack_from("<H", fixed, place + 28)[0]
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, number, number, len(fixed), len(first), 0)
    path.write_bytes(first + bytes(fixed) + end)


def soft_link(base: Callable[..., Members], name: str, path: Path, canary: Canary) -> None:
    """A member that unpacks as a soft link to the secret."""
    with zipfile.ZipFile(path, "w") as opened:
        for other, content in base().items():
            if other != name:
                opened.writestr(other, content)
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, canary.text)


def renamed(base: Callable[..., Members], old: str, new: str, path: Path, canary: Canary) -> None:
    """A member under another name."""
    members = base()
    content = members.pop(old)
    archive(members | {new.format(folder=canary.folder, trap=canary.trap): content}, path)


def twice(base: Callable[..., Members], name: str, path: Path, _: Canary) -> None:
    """Two members of one name."""
    import warnings

    with zipfile.ZipFile(path, "w") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for other, content in [*base().items(), (name, npy(np.ones((2, 2, 2))))]:
            opened.writestr(other, content)


def patched(base: Callable[..., Members], change: Callable[[bytearray], None], path: Path, _: Canary) -> None:
    """An archive whose bytes are changed."""
    archive(base(), path)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def _in_central(offset: int, value: bytes, content: bytearray) -> None:
    place = content.index(b"PK\x01\x02")
    content[place + offset : place + offset + len(value)] = value


def _in_end(offset: int, value: bytes, content: bytearray) -> None:
    place = content.rindex(b"PK\x05\x06")
    content[place + offset : place + offset + len(value)] = value


def _with_zip64(content: bytearray) -> None:
    place = content.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**62, 2**62, 2**63 - 1, 2**63 - 1)
    content[place:place] = record + struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)


CHANGES: dict[str, Callable[[bytearray], None]] = {
    "encrypted": partial(_in_central, 8, b"\x01\x00"),
    "method_unknown": partial(_in_central, 10, b"\x63\x00"),
    "sizes_lie": partial(_in_central, 24, b"\x10\x00\x00\x00"),
    "sizes_giant": partial(_in_central, 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
    "crc_wrong": partial(_in_central, 16, b"abcd"),
    "offset_outside": partial(_in_central, 42, b"\xfe\xff\xff\x7f"),
    "name_length_giant": partial(_in_central, 28, b"\xff\xff"),
    "extra_length_giant": partial(_in_central, 30, b"\xff\xff"),
    "entries_many": partial(_in_end, 8, b"\xff\xff\xff\xff"),
    "central_outside": partial(_in_end, 16, b"\xfe\xff\xff\x7f"),
    "central_size_giant": partial(_in_end, 12, b"\xfe\xff\xff\x7f"),
    "zip64_lies": _with_zip64,
    "method_bzip2": partial(_in_central, 10, b"\x0c\x00"),
    "method_lzma": partial(_in_central, 10, b"\x0e\x00"),
}
HEADERS = {
    "axes": npy_header("(" + "1, " * 40 + ")"),
    "negative": npy_header("(-1, 5, 5)"),
    "giant": npy_header("(100000, 100000, 1000)"),
    "beyond_64_bits": npy_header(f"({2**80}, 1, 1)"),
    "float_shape": npy_header("(2.5, 2, 2)"),
    "bool_shape": npy_header("(True, True, True)"),
    "objects": npy_header("(2, 2, 2)", "'|O'"),
    "objects_in_fields": npy_header("(2, 2, 2)", "[('f0', '|O')]"),
    "fields": npy_header("(1, 1, 1)", "[('a', '<f8'), ('b', '<f8', (100000, 100000))]"),
    "dtype_in_dtype": npy_header("(1,)", "[('a', " * 40 + "'<f8'" + ")]" * 40),
    "brackets": npy_header("(" * 4000),
    "code": npy_header("__import__('os').system('true')"),
    "length_lies": npy_header("(6, 10, 5)", length=60_000),
    "huge": npy_header("(6, 10, 5)" + " " * 1_000_000),
    "version_9": b"\x93NUMPY\x09\x00" + bytes(100),
    "version_3": b"\x93NUMPY\x03\x00" + bytes(100),
    "empty": b"",
    "datetime": npy_header("(6, 10, 5)", "'<M8[ns]'") + bytes(2400),
    "void": npy_header("(6, 10, 5)", "'|V0'"),
    "text": npy_header("(6, 10, 5)", "'<U1'") + b"\xff\xff\xff\xff" * 300,
}
VALUES: dict[str, Any] = {
    "nan": np.full((6, 10, 5), np.nan),
    "infinite": np.full((6, 10, 5), np.inf),
    "giant": np.full((6, 10, 5), 1e308),
    "negative": np.full((6, 10, 5), -3),
    "integers": np.full((6, 10, 5), 2**64 - 1, np.uint64),
    "complex": np.ones((6, 10, 5), complex),
    "no_trials": np.zeros((0, 10, 5)),
    "no_neurons": np.zeros((6, 10, 0)),
    "many_empty": np.zeros((2**40, 0, 4), np.uint8),
    "scalar": 3,
    "text": np.array("spikes"),
    "half": np.ones((6, 10, 5), np.float16),
    "long_double": np.ones((6, 10, 5), np.longdouble),
    "one_million_trials": np.zeros((1_000_000, 1, 1), np.uint8),
    "one_million_neurons": np.zeros((2, 1, 1_000_000), np.uint8),
}
PARAMS = {
    "code": "open({trap!r}, 'w').write('x')\nsample_rate = 30000\n",
    "expression": "sample_rate = 30000 + (open({trap!r}, 'w').write('x') or 0)\n",
    "import": "import os; os.system('touch {trap}')\nsample_rate = __import__('os').system('touch {trap}')\n",
    "lambda": "sample_rate = (lambda: open({trap!r}, 'w'))()\ndat_path = {text!r}\n",
    "format_string": "sample_rate = f'{{open({trap!r}, chr(119))}}'\n",
    "absolute_path": "dat_path = {text!r}\nsample_rate = 30000.\n",
    "traversal": "dat_path = ['../../secret', {text!r}, {url!r}]\nsample_rate = 30000.\n",
    "power": "sample_rate = 9**9**9**9\n",
    "brackets": "sample_rate = " + "(" * 50_000 + "1" + ")" * 50_000 + "\n",
    "minus": "sample_rate = " + "-" * 100_000 + "1\n",
    "digits": "sample_rate = " + "9" * 1_000_000 + "\n",
    "infinite": "sample_rate = 1e999\n",
    "zero": "sample_rate = 0\n",
    "negative": "sample_rate = -30000\n",
    "nan": "sample_rate = float('nan')\n",
    "tiny": "sample_rate = 5e-324\n",
    "text": "sample_rate = 'fast'\n",
    "missing": "n_channels_dat = 4\n",
    "twice": "sample_rate = 30000\nsample_rate = 1\n",
    "nul": "sample_rate = 30000\x00\n",
    "long": "# " + "x" * 5_000_000 + "\nsample_rate = 30000\n",
    "bidi": "sample_rate = 30000 #\u202e\u2066 = 1\n",
}


def with_params(text: str, path: Path, canary: Canary) -> None:
    """A sorter's folder with these parameters."""
    filled = text.format(trap=canary.trap, text=canary.text, url=canary.url) if "{" in text else text
    archive(phy_members(params__py=filled.encode()), path)


PHY_MEMBERS: dict[str, dict[str, bytes]] = {
    "times_shorter": {"spike_times__npy": npy(np.arange(3))},
    "times_negative": {"spike_times__npy": npy(np.arange(500) - 2**62)},
    "times_giant": {"spike_times__npy": npy(np.full(500, 2**64 - 1, np.uint64))},
    "times_not_finite": {"spike_times__npy": npy(np.resize([np.nan, np.inf, 1e308], 500))},
    "times_two_axes": {"spike_times__npy": npy(np.arange(500).reshape(-1, 1))},
    "clusters_giant": {"spike_clusters__npy": npy(np.full(500, 2**62))},
    "clusters_negative": {"spike_clusters__npy": npy(np.full(500, -1))},
    "clusters_all_differ": {"spike_clusters__npy": npy(np.arange(500) * 10**9)},
    "clusters_floats": {"spike_clusters__npy": npy(np.resize([np.nan, 0.5], 500))},
    "groups_wide": {"cluster_group__tsv": b"cluster_id" + b"\tg" * 100_000 + b"\n1" + b"\t1" * 100_000},
    "groups_html": {
        "cluster_group__tsv": b"cluster_id\tgroup\n1\t<script>\n2\t=cmd|' /C calc'!A0\n1\t\xff\xfe\n"
    },
    "groups_nul": {"cluster_group__tsv": bytes(100_000)},
    "groups_numbers": {
        "cluster_group__tsv": b"cluster_id\tgroup\n" + b"9" * 10_000 + b"\tgood\n-1\t\n1e400\tx\n"
    },
    "groups_quote": {"cluster_group__tsv": b'cluster_id\tgroup\n"' + b"1\tgood\n" * 100_000},
}
NAMES = (
    "../../../../tmp/sprung.npy", "/etc/passwd.npy", "{trap}.npy", "{trap}", "C:\\windows\\x.npy", "..\\..\\x.npy",
    "spikes.npy/../spikes.npy", "<script>alert(1)</script>.npy", "\u202eyn.npy", "a\nb\r\x1b[31m.npy", "__proto__.npy",
    "constructor.npy", "toString.npy", "a" * 60_000 + ".npy", ".npy", " .npy", "%2e%2e%2fx.npy", "\ufeff.npy",
    "con.npy", "a\\u0000.npy", "{{7*7}}${{7*7}}.npy", "';DROP TABLE datasets;--.npy",
)  # fmt: skip


def lone_surrogate(path: Path, _: Canary) -> None:
    """A name that is no UTF-8, said to be."""
    archive(npz_members() | {"\u00e4bc.npy": npy(np.arange(6))}, path)
    path.write_bytes(path.read_bytes().replace("\u00e4b".encode(), b"\xed\xa0\x80"))


def archive_corpus() -> Corpus:
    """Every attack on ZIP, NPY and Phy's files."""
    npz = partial(HostileFile, format="npz")
    phy = partial(HostileFile, format="phy")
    for of, base, name in (
        (npz, npz_members, "spikes.npy"),
        (phy, phy_members, "spike_times.npy"),
    ):
        kind = str(of.keywords["format"])
        codes = frozenset({"object_array"} if kind == "npz" else ())
        for change, function in CHANGES.items():
            yield of(f"{kind}:zip:{change}", make=partial(patched, base, function))
        for title, header in HEADERS.items():
            members = base() | {name: header + bytes(8)}
            yield of(f"{kind}:header:{title}", make=partial(archive, members))
        for member in (name, "labels.npy", "params.py"):
            yield of(
                f"{kind}:pickle:{member}",
                make=partial(pickled, member, base),
                codes=codes if member == name else frozenset(),
            )
            yield of(f"{kind}:soft_link:{member}", make=partial(soft_link, base, member))
        for strange in NAMES:
            yield of(f"{kind}:name:{strange[:30]!r}", make=partial(renamed, base, name, strange))
            beside = partial(_beside, base, strange)
            yield of(f"{kind}:name_beside:{strange[:30]!r}", make=beside)
        yield of(f"{kind}:twice", make=partial(twice, base, name))
        for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            yield of(f"{kind}:method:{method}", make=partial(archive, base(), method=method))
        yield of(f"{kind}:bomb", make=partial(bomb, base, name, 100))
        yield of(f"{kind}:bomb_of_8_gib", make=partial(bomb, base, name, 8192), is_slow=True)
        yield of(
            f"{kind}:many_members", make=partial(archive, base() | {f"m{n}.npy": npy(n) for n in range(1500)})
        )
        values = VALUES.items()
        for title, value in values:
            yield of(f"{kind}:values:{title}", make=partial(archive, base() | {name: npy(value)}))
    yield npz("npz:lone_surrogate", make=lone_surrogate)
    yield npz("npz:nested", make=partial(nested, 50))
    yield npz("npz:overlapping", make=partial(overlapping, 200))
    for other in (
        "bin_width_s",
        "trial_length_bins",
        "split",
        "true_rates_hz",
        "external_inputs",
        "condition",
    ):
        for title, value in VALUES.items():
            yield npz(f"npz:{other}:{title}", make=partial(archive, npz_members(**{other: npy(value)})))
    for title, text in PARAMS.items():
        yield phy(f"phy:params:{title}", make=partial(with_params, text))
    for title, changes in PHY_MEMBERS.items():
        yield phy(f"phy:{title}", make=partial(archive, phy_members(**changes)))


def _beside(base: Callable[..., Members], name: str, path: Path, canary: Canary) -> None:
    filled = name.format(folder=canary.folder, trap=canary.trap)
    archive(base() | {filled: npy(np.arange(6))}, path)
