"""Every kind of set on small generated directories of its published layout, and every kind of damage to them."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from shapegan_jax.data import images, packed
from shapegan_jax.data.sources import Source, open_source
from shapegan_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  """The default cache, so that no test writes to the home directory."""
  directory = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("SHAPEGAN_CACHE", str(directory))
  return directory


def ramp(height=20, width=30):
  """A picture with a different colour in every pixel: red grows to the right, green downwards."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x * 8, y * 8, np.full_like(x, 40)], -1).astype(np.uint8)


def save(path, array=None, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(ramp() if array is None else array).save(path, **options)
  return path


def error_of(**config):
  with pytest.raises(UserError) as caught:
    open_source(config)
  message = str(caught.value)
  assert "\n" not in message
  return message


# --- the data section of a config ---


def test_unknown_names_keys_and_values_list_the_known_ones(tmp_path):
  assert "heads, folder, synface, cats, carla, named" in error_of(name="bfm")
  assert "config.data.imagesize: no such setting; did you mean image_size?" in error_of(name="folder", imagesize=3)
  assert "config.data.name: None is not one of heads, folder" in error_of(path="pictures")
  assert "train, validation, test" in error_of(name="folder", split="val")
  assert "config.data.crop: -4 is not a whole number of at least 1" in error_of(name="folder", crop=-4)
  assert "config.data.image_size: '64' is not a whole number" in error_of(name="folder", image_size="64")
  assert "config.data.resize: 'nearest' is not one of antialias, legacy" in error_of(name="folder", resize="nearest")
  save(tmp_path / "a.png")
  assert "white, black, grey" in error_of(name="folder", path=str(tmp_path), background="beige")


def test_heads_opens_through_the_same_door(monkeypatch):
  from shapegan_jax.data import heads

  monkeypatch.setattr(heads, "SMOKE_COUNTS", {"train": 1, "validation": 1, "test": 1})
  monkeypatch.setattr(heads.heads_workers, "default_num_workers", lambda: 0)
  source = open_source({"name": "heads", "split": "validation", "image_size": 8, "num_examples": 2, "flip": True})
  assert isinstance(source, Source)
  assert len(source) == 1
  assert source[0]["image"].shape == (8, 8, 3)
  assert {"albedo", "depth", "normals", "mask", "yaw", "pitch", "light"} <= set(source[0])


# --- folder ---


def test_a_missing_path_a_missing_folder_a_file_and_an_empty_folder_each_say_what_to_do(tmp_path):
  assert "--config.data.path=FOLDER" in error_of(name="folder")
  assert "does not exist" in error_of(name="folder", path=str(tmp_path / "nowhere"))
  assert "is a file, not a folder" in error_of(name="folder", path=str(save(tmp_path / "one.png")))
  (tmp_path / "empty" / "deeper").mkdir(parents=True)
  (tmp_path / "empty" / "notes.txt").write_text("no picture")
  assert "No images in" in error_of(name="folder", path=str(tmp_path / "empty"))
  (tmp_path / "empty" / "deeper" / "a.png").write_bytes(b"nonsense")
  assert "None of the 1 images" in error_of(name="folder", path=str(tmp_path / "empty"))
  assert not list(packed.default_cache_dir().glob("folder/*"))  # a failure leaves nothing behind


def test_a_folder_is_read_recursively_in_the_order_of_names(tmp_path):
  for k, name in enumerate(["b/2.JPG", "a.png", "b/1.webp", "c/d/e.jpeg", "z.bmp", "y.gif", "x.tiff"]):
    save(tmp_path / name, np.full((9, 9, 3), 30 * k, np.uint8))
  save(tmp_path / ".hidden.png")
  save(tmp_path / ".thumbnails" / "a.png")
  (tmp_path / "readme.txt").write_text("no picture")
  source = open_source({"name": "folder", "path": str(tmp_path), "image_size": 4})
  assert source.labels == ("a.png", "b/1.webp", "b/2.JPG", "c/d/e.jpeg", "x.tiff", "y.gif", "z.bmp")
  assert len(source) == 7
  levels = [int(source[i]["image"].mean()) for i in range(7)]
  np.testing.assert_allclose(levels, [30, 60, 0, 90, 180, 150, 120], atol=3)
  np.testing.assert_array_equal(source.images()[3], source[3]["image"])
  capped = open_source({"name": "folder", "path": str(tmp_path), "image_size": 4, "num_examples": 2})
  assert capped.labels == source.labels[:2]


def test_unreadable_files_are_counted_named_and_skipped(tmp_path, caplog, monkeypatch):
  good = save(tmp_path / "good.png")
  photo = save(tmp_path / "photo.jpg", ramp(200, 300))
  (tmp_path / "bad1.png").write_bytes(b"")
  (tmp_path / "bad2.jpg").write_text("I am text")
  (tmp_path / "bad3.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
  (tmp_path / "bad4.jpg").write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
  (tmp_path / "bad5.png").symlink_to(tmp_path / "bad5.png")
  save(tmp_path / "bomb.png", np.zeros((300, 400, 3), np.uint8))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300)
  config = {"name": "folder", "path": str(tmp_path), "image_size": 8}
  for _ in range(2):  # prepared, and opened again from the cache
    caplog.clear()
    source = open_source(config)
    assert source.labels == ("good.png", "photo.jpg")
    assert len(source) == len(source.images()) == 2
    [record] = caplog.records
    message = record.getMessage()
    assert "skipped 6 of 8 unreadable images" in message
    assert "bad1.png" in message
    assert "\n" not in message
    assert message.endswith("...")
  np.testing.assert_array_equal(source[1]["image"], images.load_square(photo, 8))


def test_links_are_followed_and_loops_end(tmp_path):
  save(tmp_path / "elsewhere" / "c.png")
  root = tmp_path / "root"
  save(root / "a" / "b.png")
  (root / "a" / "up").symlink_to(root)
  (root / "self").symlink_to(root / "self")
  (root / "linked").symlink_to(tmp_path / "elsewhere")
  (root / "same").symlink_to(tmp_path / "elsewhere")
  source = open_source({"name": "folder", "path": str(root), "image_size": 4})
  assert source.labels == ("a/b.png", "linked/c.png")


def test_pictures_are_prepared_once_and_again_when_something_changes(tmp_path, cache, monkeypatch):
  save(tmp_path / "a.png")
  config = {"name": "folder", "path": str(tmp_path), "image_size": 4}
  first = open_source(config)[0]["image"]
  with monkeypatch.context() as patch:
    patch.setattr("shapegan_jax.data.folder.load_square", None)  # whoever decodes again finds every file unreadable
    np.testing.assert_array_equal(open_source(config)[0]["image"], first)
  file = save(tmp_path / "a.png", 255 - ramp())
  os.utime(file, (1, 1))
  np.testing.assert_allclose(open_source(config)[0]["image"] + first.astype(int), 255, atol=2)
  save(tmp_path / "b.png")
  assert len(open_source(config)) == 2
  prepared = sorted(path.name for path in (cache / "folder").iterdir())
  assert len(prepared) == 3
  assert all(name.startswith("4px-") for name in prepared)
  index = json.loads((cache / "folder" / prepared[0] / "index.json").read_text())
  assert index["origin"] == str(tmp_path)


def test_remains_of_killed_preparations_are_removed_and_a_live_one_is_not(tmp_path, cache):
  save(tmp_path / "a.png")
  config = {"name": "folder", "path": str(tmp_path), "image_size": 4}
  open_source(config)
  [home] = (cache / "folder").iterdir()
  home.rename(home.with_name(home.name + ".partial-dead"))
  os.utime(home.with_name(home.name + ".partial-dead") / "pictures.u8", (1, 1))
  live = home.with_name(home.name + ".partial-live")
  live.mkdir()
  assert len(open_source(config)) == 1
  assert sorted((cache / "folder").iterdir()) == sorted([home, live])


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path, monkeypatch):
  save(tmp_path / "pictures" / "a.png")
  (tmp_path / "file").write_text("")
  config = {"name": "folder", "path": str(tmp_path / "pictures"), "image_size": 4}
  assert "set data.cache_dir" in error_of(**config, cache_dir=str(tmp_path / "file"))
  monkeypatch.setattr(packed.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 47})())
  assert "0.0 GB free" in error_of(**config, cache_dir=str(tmp_path / "cache"))


# --- decoding ---


def test_the_crop_is_the_centred_square(tmp_path):
  file = save(tmp_path / "a.png", ramp(20, 31))
  np.testing.assert_array_equal(images.load_square(file, 20), ramp(20, 31)[:, 6:26])  # 5.5 rounds to even
  np.testing.assert_array_equal(images.load_square(file, 10, crop=10), ramp(20, 31)[5:15, 10:20])
  np.testing.assert_array_equal(images.load_square(file, 20, crop=400), images.load_square(file, 20))


def test_a_large_jpeg_decoded_at_reduced_scale_shows_the_same_crop(tmp_path):
  y, x = np.mgrid[:480, :640]
  picture = np.stack([x / 3, y / 3, (x + y) / 6], -1).astype(np.uint8)
  jpeg, png = save(tmp_path / "a.jpg", picture, quality=95), save(tmp_path / "a.png", picture)
  for crop in (None, 401):
    difference = images.load_square(jpeg, 16, crop=crop).astype(int) - images.load_square(png, 16, crop=crop)
    assert np.abs(difference).max() <= 4  # a shift of one of the sixteen pixels would be 8 or more


def test_every_mode_becomes_rgb(tmp_path):
  grey = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
  expected = np.repeat(grey[..., None], 3, -1)

  def read(image, suffix="png", **options):
    image.save(tmp_path / f"a.{suffix}", **options)
    return images.load_square(tmp_path / f"a.{suffix}", 8)

  np.testing.assert_array_equal(read(Image.fromarray(grey)), expected)
  np.testing.assert_array_equal(read(Image.fromarray(grey.astype(np.uint16) * 257)), expected)
  np.testing.assert_array_equal(read(Image.fromarray(grey.astype(np.float32) / 255), "tiff"), expected)
  np.testing.assert_array_equal(read(Image.fromarray(grey.astype(np.float32)), "tiff"), expected)
  np.testing.assert_array_equal(read(Image.fromarray(grey).convert("P")), expected)
  np.testing.assert_allclose(read(Image.fromarray(expected).convert("CMYK"), "jpg", quality=100), expected, atol=6)
  assert set(read(Image.fromarray(grey > 100))[..., 0].ravel()) == {0, 255}


def test_transparency_is_laid_on_the_background(tmp_path):
  picture = np.zeros((8, 8, 4), np.uint8)
  picture[:, :4] = (200, 100, 0, 255)
  picture[:, 4:] = (9, 9, 9, 0)  # invisible colours must not shine through
  picture[0] = (200, 100, 0, 51)
  file = save(tmp_path / "a.png", picture)
  white, black = images.load_square(file, 8), images.load_square(file, 8, background=(0, 0, 0))
  np.testing.assert_array_equal(white[4, 0], [200, 100, 0])
  np.testing.assert_array_equal(white[4, 7], [255, 255, 255])
  np.testing.assert_array_equal(black[4, 7], [0, 0, 0])
  np.testing.assert_allclose(white[0, 0], [0.2 * 200 + 0.8 * 255, 0.2 * 100 + 0.8 * 255, 0.8 * 255], atol=1)
  palette = Image.fromarray(picture[..., :3]).quantize(4)
  palette.save(tmp_path / "p.png", transparency=palette.getpixel((7, 7)))
  np.testing.assert_array_equal(images.load_square(tmp_path / "p.png", 8)[4, 7], [255, 255, 255])


def test_camera_orientation_is_applied_and_damaged_tags_are_ignored(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
  stored = ramp(20, 30)
  file = save(tmp_path / "a.png", stored, exif=exif)
  np.testing.assert_array_equal(images.load_square(file, 20), np.rot90(stored, -1)[5:25])
  file = save(tmp_path / "b.png", stored, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff")
  np.testing.assert_array_equal(images.load_square(file, 20), stored[:, 5:25])


# --- published layouts ---


def synface(root, split, number=3):
  """Pictures of 200x200 whose depth is a cone in the middle (white is near) on a black background."""
  y, x = np.mgrid[:200, :200]
  cone = np.clip(255 - 4 * np.hypot(x - 99.5, y - 99.5), 0, 255).astype(np.uint8)
  for k in range(number):
    save(root / split / "image" / f"{k:03d}_image.png", np.full((200, 200, 3), 40 * k, np.uint8))
    save(root / split / "depth" / f"{k:03d}_depth.png", np.repeat(cone[..., None], 3, -1))
  return cone


def test_synface_pairs_images_with_depth(tmp_path):
  root = tmp_path / "images of faces" / "synface"  # 'image' in the path above must not become 'depth'
  cone = synface(root, "train")
  synface(root, "val", 2)
  assert len(open_source({"name": "synface", "path": str(root), "split": "validation", "image_size": 8})) == 2
  source = open_source({"name": "synface", "path": str(root), "image_size": 170})
  assert len(source) == 3
  example = source[2]
  assert (example["image"] == 80).all()
  crop = cone[15:185, 15:185].astype(np.float32) / 255  # the published crop of 170
  t = (1 - crop) * 2 - 1
  np.testing.assert_allclose(example["depth"], 0.9 * (1 - t) / 2 + 1.1 * (1 + t) / 2, atol=1e-6)
  np.testing.assert_array_equal(example["mask"], crop > 0)
  small = open_source({"name": "synface", "path": str(root), "image_size": 16})[0]
  assert small["depth"].shape == small["mask"].shape == (16, 16)
  assert 0.9 <= small["depth"].min() < 0.93
  np.testing.assert_allclose(small["depth"].max(), 1.1, rtol=1e-6)


def test_synface_may_be_named_by_its_split_and_never_gives_another_split(tmp_path):
  synface(tmp_path, "train")
  for path in (tmp_path, tmp_path / "train", tmp_path / "train" / "image"):
    source = open_source({"name": "synface", "path": str(path), "image_size": 8})
    assert len(source) == 3
    assert "depth" in source[0]
    assert "does not hold the test split" in error_of(name="synface", path=str(path), split="test")
  (tmp_path / "train" / "depth" / "001_depth.png").unlink()
  assert [sorted(source[i]) for i in (0, 1)] == [["depth", "image", "mask"], ["image"]]
  assert "synface.zip" in error_of(name="synface", path=str(tmp_path / "train" / "depth"))


def test_sixteen_bit_depth_keeps_its_precision(tmp_path):
  grey = np.array([[0, 1, 30000, 65535]] * 4, np.uint16)
  Image.fromarray(grey).save(tmp_path / "d.png")
  from shapegan_jax.data.published import read_depth

  depth, mask = read_depth(tmp_path / "d.png", 4, crop=170)
  np.testing.assert_allclose(depth, 1.1 - 0.2 * grey / 65535, atol=2e-7)
  np.testing.assert_array_equal(mask, grey > 0)


def test_cats_are_one_folder_of_squares_of_several_sizes(tmp_path):
  for k, size in enumerate((64, 128, 70)):
    save(tmp_path / f"{k}.jpg", np.full((size, size, 3), 60 * k, np.uint8))
  source = open_source({"name": "cats", "path": str(tmp_path)})
  assert source.images().shape == (3, 64, 64, 3)
  np.testing.assert_allclose(source.images().mean((1, 2, 3)), [0, 60, 120], atol=2)


def test_carla_is_laid_on_white_and_its_poses_are_left_alone(tmp_path):
  car = np.zeros((16, 16, 4), np.uint8)
  car[4:12, 4:12] = (10, 20, 30, 255)
  save(tmp_path / "images" / "000000.png", car)
  (tmp_path / "poses").mkdir()
  np.save(tmp_path / "poses" / "000000_extrinsics.npy", np.eye(4))
  config = {"name": "carla", "path": str(tmp_path), "image_size": 16}
  source = open_source(config)
  assert source.labels == ("000000.png",)
  assert set(source[0]) == {"image"}
  np.testing.assert_array_equal(source[0]["image"][0, 0], [255, 255, 255])
  np.testing.assert_array_equal(source[0]["image"][8, 8], [10, 20, 30])
  np.testing.assert_array_equal(open_source({**config, "background": "black"})[0]["image"][0, 0], [0, 0, 0])
  assert len(open_source({**config, "path": str(tmp_path / "images")})) == 1


# --- named ---


def test_a_tfds_set_is_read_without_tensorflow_and_cropped_as_in_the_papers():
  import tensorflow_datasets as tfds

  with tfds.testing.mock_data(num_examples=4):
    source = open_source({"name": "named", "tfds_name": "celeb_a", "image_size": 142})
    first = tfds.data_source("celeb_a", split="train", download=False)[0]["image"]
    assert len(open_source({"name": "named", "tfds_name": "celeb_a", "image_size": 8, "num_examples": 3})) == 3
    grey = open_source({"name": "named", "tfds_name": "mnist", "image_size": 28})
    other = open_source({"name": "named", "tfds_name": "smallnorb", "image_size": 8, "split": "test"})
  assert source.images().shape == (4, 142, 142, 3)
  np.testing.assert_array_equal(source[0]["image"], first[38:180, 18:160])
  assert (grey.images()[..., 0] == grey.images()[..., 2]).all()
  assert other.images().shape == (4, 8, 8, 3)
  assert "tensorflow" not in sys.modules


def test_a_tfds_set_that_is_missing_or_not_prepared_says_what_to_type(tmp_path):
  assert "data.tfds_name is not set" in error_of(name="named")
  assert "is not a TFDS set" in error_of(name="named", tfds_name="celeb_aa")
  message = error_of(name="named", tfds_name="celeb_a", path=str(tmp_path))
  command = message[message.index("import tensorflow_datasets") : message.rindex('"')]
  compile(command, "command", "exec")  # what the user is told to paste is a program
  for part in ("'celeb_a'", "file_format='array_record'", repr(str(tmp_path)), "download_and_prepare()"):
    assert part in command
