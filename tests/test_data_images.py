"""Image folders and archives: layouts, order, and what is said about those that cannot be used."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.base.errors import UserError
from fedkd.data import load

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))


def picture(value: int = 0, size: tuple[int, int] = (4, 3), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """One encoded image of one colour, `size` (width, height)."""
    data = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).convert(mode).save(data, kind)
    return data.getvalue()


def flat() -> dict[str, bytes]:
    """Twelve images in two class folders, each of another red."""
    return {f"{'ab'[i % 2]}/{i:02}.png": picture(i) for i in range(12)}


def bordered() -> dict[str, bytes]:
    return {f"{'test' if i >= 9 else 'train'}/{'ab'[i % 2]}/{i:02}.png": picture(i) for i in range(12)}


def folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def archive(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def test_class_folders(tmp_path: Path) -> None:
    dataset = load(f"images:{folder(tmp_path / 'set', flat())}")
    assert dataset.classes == ("a", "b")
    assert dataset.shape == (3, 3, 4)
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    assert torch.bincount(dataset.labels[dataset.test]).tolist() == [1, 1]


def test_train_and_test_folders_are_the_border(tmp_path: Path) -> None:
    dataset = load(f"images:{folder(tmp_path / 'set', bordered())}")
    assert dataset.classes == ("a", "b")
    assert sorted(dataset.images[dataset.test][:, 0, 0, 0].tolist()) == [9, 10, 11]
    assert len(dataset.train) == 9


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_the_same_as_its_folder(tmp_path: Path, mode: str) -> None:
    files = bordered()
    unpacked = load(f"images:{folder(tmp_path / 'set', files)}")
    backwards = {f"./wrapped/{name}": files[name] for name in reversed(files)}
    packed = load(f"images:{archive(tmp_path / 'set.tar', backwards, mode)}")
    assert packed.fingerprint == unpacked.fingerprint


def test_a_zip_archive_too_whatever_it_is_called(tmp_path: Path) -> None:
    unpacked = load(f"images:{folder(tmp_path / 'set', bordered())}")
    packed = load(f"images:{zipped(tmp_path / 'set.tar', {f'wrapped/{k}': v for k, v in bordered().items()})}")
    assert packed.fingerprint == unpacked.fingerprint


def test_grey_jpegs_in_upper_case_and_below_a_class(tmp_path: Path) -> None:
    files = {f"{'ab'[i % 2]}/images/{i}.JPEG": picture(200, (8, 8), "L", "JPEG") for i in range(4)}
    dataset = load(f"images:{folder(tmp_path / 'set', files)}")
    assert dataset.shape == (1, 8, 8)
    assert dataset.classes == ("a", "b")


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    extra = {
        "readme.txt": b"hello",
        "a/labels.csv": b"1,2",
        ".DS_Store": b"",
        ".git/x.png": b"",
        "a/._0.png": b"",
    }
    dataset = load(f"images:{folder(tmp_path / 'set', flat() | extra)}")
    assert dataset.fingerprint == load(f"images:{archive(tmp_path / 'set.tar', flat() | extra)}").fingerprint
    assert len(dataset.images) == 12


def test_a_misnamed_image_is_read_for_what_it_is(tmp_path: Path) -> None:
    files = {name.replace(".png", ".jpg"): content for name, content in flat().items()}
    assert len(load(f"images:{folder(tmp_path / 'set', files)}").images) == 12


def test_large_images_are_decoded_in_threads_in_order(tmp_path: Path) -> None:
    files = {f"{'ab'[i % 2]}/{i:04}.png": picture(i % 256, (128, 128)) for i in range(1100)}
    seen: list[tuple[str, int, int]] = []
    source = f"images:{archive(tmp_path / 'set.tar', files)}"
    dataset = load(source, lambda *call: seen.append(call))
    expected = [int(name[2:6]) % 256 for name in sorted(files)]
    assert dataset.images[:, 0, 5, 5].tolist() == expected
    assert seen[-1] == (f"decoding {tmp_path / 'set.tar'}", 1100, 1100)


def test_a_new_image_is_noticed(tmp_path: Path) -> None:
    source = f"images:{folder(tmp_path / 'set', flat())}"
    assert len(load(source).images) == 12
    folder(tmp_path / "set", {"a/99.png": picture(99)})
    assert len(load(source).images) == 13


WRONG: list[tuple[Callable[[], dict[str, bytes]], str]] = [
    (dict, "holds no image"),
    (lambda: {"a/readme.txt": b"x"}, "holds no image"),
    (lambda: {"a/0.png": picture(), "a/1.png": picture()}, "one class only, 'a'"),
    (lambda: flat() | {"0.png": picture()}, r"0\.png lies outside of any class folder"),
    (lambda: flat() | {"a/03.png": picture(size=(5, 3))}, r"a/03\.png is 3×5 RGB, but a/00\.png is 3×4 RGB"),
    (lambda: flat() | {"a/03.png": picture(mode="L")}, r"a/03\.png is 3×4 grey"),
    (lambda: flat() | {"a/03.png": picture(mode="RGBA")}, r"a/03\.png has mode RGBA.*convert them"),
    (lambda: flat() | {"a/03.png": picture(mode="P")}, r"a/03\.png has mode P"),
    (lambda: flat() | {"a/03.png": picture()[:-30]}, r"a/03\.png cannot be decoded"),
    (
        lambda: flat() | {"a/03.jpg": picture(size=(64, 64), kind="JPEG")[:300]},
        r"a/03\.jpg cannot be decoded",
    ),
    (
        lambda: flat() | {"b/03.png": b"no image"},
        r"b/03\.png cannot be decoded \(cannot identify image file\)",
    ),
    (lambda: flat() | {"b/03.png": b""}, r"b/03\.png cannot be decoded"),
    (lambda: bordered() | {"val/a/0.png": picture()}, "holds the folders test, train, val"),
    (lambda: bordered() | {"test/c/0.png": picture()}, "class 'c' is in test but not in train"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_wrong_is_named(
    tmp_path: Path, make: Callable[[], dict[str, bytes]], message: str, packed: bool
) -> None:
    (tmp_path / "set").mkdir()
    where = archive(tmp_path / "set.tar", make()) if packed else folder(tmp_path / "set", make())
    with pytest.raises(UserError, match=message) as caught:
        load(f"images:{where}")
    assert str(where) in str(caught.value)
    assert not list(tmp_path.glob("cache/datasets/*.safetensors"))


def test_an_empty_class_folder_would_shift_the_classes(tmp_path: Path) -> None:
    (folder(tmp_path / "set", flat()) / "empty").mkdir()
    with pytest.raises(UserError, match="the folder 'empty' holds no image"):
        load(f"images:{tmp_path / 'set'}")


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (folder(tmp_path / "set", flat()) / "a" / "99.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"99\.png: cannot be read"):
        load(f"images:{tmp_path / 'set'}")


def odd(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (odd("/etc/x.png"), "'/etc/x.png' points outside"),
        (odd("a/../../x.png"), "points outside"),
        (odd("../x.txt"), "points outside"),
        (odd("a/x.png", tarfile.SYMTYPE, "/etc/passwd"), "'a/x.png' is a link"),
        (odd("a/x.png", tarfile.LNKTYPE, "a/00.png"), "is a link"),
        (odd("a/x.png", tarfile.CHRTYPE), "neither a file nor a folder"),
        (odd("a/x.png", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (odd("a/00.png"), "holds a/00.png twice"),
        (odd("a/x.png", size=2**40), "1,099,511,627,776 bytes"),
    ],
)
def test_archives_that_reach_out_are_refused(tmp_path: Path, member: tarfile.TarInfo, message: str) -> None:
    path = archive(tmp_path / "set.tar", flat())
    with tarfile.open(path, "a") as tar:
        tar.addfile(member)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        load(f"images:{path}")
    assert {p.suffix for p in set(tmp_path.rglob("*")) - before} <= {"", ".lock"}, "nothing was unpacked"


def strange(name: str, mode: int = 0) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (strange("/etc/x.png"), "'/etc/x.png' points outside"),
        (strange("a/../../x.png"), "points outside"),
        (strange("../x.txt"), "points outside"),
        (strange("a/x.png", stat.S_IFLNK | 0o777), "'a/x.png' is a link"),
        (strange("./a/00.png"), "holds a/00.png twice"),
    ],
)
def test_zip_archives_that_reach_out_are_refused(tmp_path: Path, member: zipfile.ZipInfo, message: str) -> None:
    path = zipped(tmp_path / "set.zip", flat())
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(member, b"/etc/passwd")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        load(f"images:{path}")
    assert {p.suffix for p in set(tmp_path.rglob("*")) - before} <= {"", ".lock"}, "nothing was unpacked"


def test_huge_damaged_and_encrypted_files_of_a_zip_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", flat() | {"a/bomb.png": bytes(65 * 2**20)})
    with pytest.raises(UserError, match=r"'a/bomb\.png' has 68,157,440 bytes; 67,108,864 is the most"):
        load(f"images:{path}")
    whole = zipped(path, flat()).read_bytes()
    for content in (whole[:30], whole[: len(whole) // 2], whole[:-5], whole[:60] + b"torn" + whole[64:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged, cut short or no zip archive"):
            load(f"images:{path}")
    entry = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 8] + b"\x01" + whole[entry + 9 :])
    with pytest.raises(UserError, match=r"no zip archive .*encrypted"):
        load(f"images:{path}")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_cut_archives_are_refused_wherever_they_are_cut(tmp_path: Path, mode: str) -> None:
    path = archive(tmp_path / "set.tar", bordered(), mode)
    whole = path.read_bytes()
    # The plain archive ends in blocks of zeros: cut within its 12 members, at their borders too.
    ends = [100, 512, 700, 1024, 5 * 1024, 12 * 1024] if mode == "w" else [20, len(whole) // 2, len(whole) - 5]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="is damaged, cut short or no tar archive"):
            load(f"images:{path}")
    assert not list(tmp_path.glob("cache/datasets/*.safetensors"))


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive " * 200)
    with pytest.raises(UserError, match="no tar archive"):
        load(f"images:{tmp_path / 'text.tar'}")
    with pytest.raises(UserError, match="cannot be read"):
        load(f"images:{tmp_path / 'none.tar'}")


@pytest.mark.skipif(
    not (SHARED / "cifar10-jpeg.tar.xz").exists(), reason="../shared/data/cifar10-jpeg.tar.xz is absent"
)
def test_a_part_of_cifar(tmp_path: Path) -> None:
    part: dict[str, bytes] = {}
    with tarfile.open(SHARED / "cifar10-jpeg.tar.xz") as tar:
        for member in tar:
            if member.isfile() and Path(member.name).stem < "0005":
                file = tar.extractfile(member)
                assert file
                part[member.name] = file.read()
    dataset = load(f"images:{archive(tmp_path / 'part.tar.xz', part, 'w:xz')}")
    assert dataset.shape == (3, 32, 32)
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(dataset.labels[dataset.train]).tolist() == [5] * 10
    assert torch.bincount(dataset.labels[dataset.test]).tolist() == [5] * 10
    first = sorted(part)[0]
    pixels = np.asarray(Image.open(io.BytesIO(part[first])))
    assert np.array_equal(dataset.images[0].permute(1, 2, 0).numpy(), pixels)


SIZES = ((30, 20), (20, 30), (8, 8), (40, 40))


def mixed() -> dict[str, bytes]:
    """Twelve images of four sizes and four modes: a red left half, a blue right half, whatever the size."""
    files = {}
    for i in range(12):
        image = Image.new("RGB", SIZES[i % 4], (200, 0, 0))
        image.paste((0, 0, 200), (image.width // 2, 0, image.width, image.height))
        data = io.BytesIO()
        image.convert(("RGB", "RGBA", "P", "L")[i // 3]).save(data, "PNG")
        files[f"{'ab'[i % 2]}/{i:02}.png"] = data.getvalue()
    return files


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_images_of_many_sizes_and_modes_are_brought_to_one(tmp_path: Path, fit: str) -> None:
    parameters = f"(size=16, mode='RGB', fit='{fit}')"
    dataset = load(f"images:{folder(tmp_path / 'set', mixed())}{parameters}")
    assert dataset.shape == (3, 16, 16)
    packed = load(f"images:{archive(tmp_path / 'set.tar', mixed())}{parameters}")
    assert torch.equal(packed.images, dataset.images)
    first = dataset.images[0].int()  # 30×20, red and blue
    assert abs(first[:, 8, 3] - torch.tensor([200, 0, 0])).max() < 3
    assert abs(first[:, 8, 12] - torch.tensor([0, 0, 200])).max() < 3
    assert (first[:, 0].sum() == 0) == (fit == "pad"), "a wide image has black above it only where it is padded"


def test_the_middle_is_cut_out_and_nothing_is_lost_by_padding(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 100
    data = io.BytesIO()
    Image.fromarray(wide).save(data, "PNG")
    source = (
        f"images:{folder(tmp_path / 'set', {f'{name}/{i}.png': data.getvalue() for name in 'ab' for i in range(2)})}"
    )
    assert (load(f"{source}(size=10)").images == 100).all()
    padded = load(f"{source}(size=30, fit='pad')").images[0]
    assert padded[0, 10:20].tolist() == wide[..., 0].tolist()
    assert padded[:, :10].sum() == padded[:, 20:].sum() == 0


def test_cropped_images_are_what_torchvision_gives(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    rng, files = np.random.default_rng(0), {}
    for i, size in enumerate([(31, 20), (20, 31), (8, 8), (40, 40), (16, 33), (57, 23), (17, 16), (16, 16)]):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)).save(data, "PNG")
        files[f"{'ab'[i % 2]}/{i}.png"] = data.getvalue()
    root = folder(tmp_path / "set", files)
    ours = load(f"images:{root}(size=16)")
    theirs = torch.stack([x for x, _ in ImageFolder(str(root), Compose([Resize(16), CenterCrop(16), ToTensor()]))])
    assert torch.equal(ours.pixels(torch.arange(8)), theirs)


def test_grey_and_colour_are_what_pillow_makes_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    files = {}
    for i, each in enumerate(pixels):
        data = io.BytesIO()
        Image.fromarray(each).save(data, "PNG")
        files[f"{'ab'[i % 2]}/{i}.png"] = data.getvalue()
    source = f"images:{folder(tmp_path / 'set', files)}"
    weights = np.array([299, 587, 114]) / 1000  # ITU-R 601
    grey = np.concatenate([pixels[::2], pixels[1::2]]) @ weights
    assert np.abs(load(f"{source}(mode='L')").images[:, 0].numpy() - grey).max() <= 1
    assert torch.equal(load(f"{source}(mode='RGB')").images, load(source).images)


def deep() -> bytes:
    """An image of 16 bits."""
    data = io.BytesIO()
    Image.fromarray(np.full((3, 4), 40_000, np.uint16)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("changed", "parameters", "message"),
    [
        ({"a/03.png": picture(size=(5, 3))}, "", r"one size and mode; size=3 brings all of them to one"),
        ({"a/03.png": picture(mode="L")}, "", r'one size and mode; mode="RGB" brings all of them to one'),
        ({"a/03.png": picture(size=(9, 9), mode="L")}, "", r'size=3 and mode="RGB" brings'),
        ({"a/03.png": picture(mode="RGBA")}, "", r'has mode RGBA; .* give mode="RGB" or mode="L"'),
        ({"a/03.png": deep()}, "(mode='RGB')", r"a/03\.png has mode I;16, more than 8 bits"),
        ({"a/03.png": picture()[:-30]}, "(size=8)", r"a/03\.png cannot be decoded"),
        ({}, "(size=-1)", "size: input should be greater than or equal to 0"),
        ({}, "(fit='squash')", "fit: input should be 'crop', 'pad' or 'stretch'"),
    ],
)
def test_what_would_bring_them_to_one_is_said(
    tmp_path: Path, changed: dict[str, bytes], parameters: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(f"images:{folder(tmp_path / 'set', flat() | changed)}{parameters}")
