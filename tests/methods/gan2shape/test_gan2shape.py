"""GAN2Shape's parts: frames, lights, views, what each loss compares, and what people are shown."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_gan import LATENT, AnalyticGan
from compiler_flags import AS_SHIPPED

from configs import gan2shape as presets
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.depthmaps import normals_from_depth
from shapegan_jax.geometry.ellipsoid import centroids
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.relief import camera_poses, move, points_to_world, project
from shapegan_jax.methods.gan2shape.engine_settings import Samples, StagedStage, Subjects, Targets, Work
from shapegan_jax.methods.gan2shape.latent_directions import Directions, regression
from shapegan_jax.methods.gan2shape.method import Gan2Shape, height_error
from shapegan_jax.methods.gan2shape.pseudo_samples import Drawings, Memory
from shapegan_jax.methods.gan2shape.relief_model import ReliefConfig, lit, views_at
from shapegan_jax.methods.gan2shape.settings import GanConfig, MaskConfig, Relighting, Views
from shapegan_jax.model import with_dependencies
from shapegan_jax.networks.features import perceptual
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.types import Lights, Scene

SIZE = 16
NETWORK = {"mapping": {"size": LATENT}, "synthesis": {"channels": (8, 8, 8)}, "discriminator": {"channels": (8, 8, 8)}}
CONFIG = {
  "stages": {"resolution": SIZE, "samples": 2, "pool": 2, "flip_albedo": (False,), "flip_joint": (False,)},
  "subjects": {"count": 2},
  "gan": {"network": NETWORK},
  "networks": {"width": 4, "bottleneck": 8, "encoder_width": 4, "offset_width": 4},
  "relief": {"supersample": 1},
}


def changed(**sections):
  return {**CONFIG, **{name: {**CONFIG.get(name, {}), **values} for name, values in sections.items()}}


@pytest.fixture(scope="module")
def gan():
  return AnalyticGan.of(SIZE, ReliefConfig(supersample=1))


def in_answers_units(gan, latent):
  """Views of latents as a view network says them."""
  return gan.views(latent) / gan.model.in_units(jnp.ones((1, 6))).at[:, 5].set(1.0)


def knowing(method, gan, latent):
  """The method, whose networks' answers are the truth of the analytic generator at `latent` and its samples."""
  model = dataclasses.replace(method.model)
  seen = jax.tree.map(lambda x: jnp.repeat(x[None], len(latent), 0), (gan.depth, gan.albedo))
  answers = {
    "canonical": lambda params, images: model.canonical_of(*seen),
    "views": lambda params, images: in_answers_units(gan, params["latents"]),
    "lights": lambda params, images: gan.lights(params["latents"]),
  }
  for name, answer in answers.items():
    object.__setattr__(model, name, answer)
  return dataclasses.replace(method, model=model)


def work_of(gan, latent, samples):
  """`Work` on the pictures of latents [k] with samples [k, b] of other latents."""
  subjects = gan.subjects(latent)
  flat = samples.reshape(-1, LATENT)
  drawn = gan.subjects(flat)
  images, masks = (x.reshape(*samples.shape[:2], *x.shape[1:]) for x in (drawn.image, drawn.mask))
  asked = (x.reshape(*samples.shape[:2], -1) for x in (in_answers_units(gan, flat), gan.lights(flat)))
  return Work(Targets(subjects, subjects.image, subjects.mask), Samples.of(images, masks, *asked), None, gan)


def test_views_show_what_the_worlds_cameras_see(gan, rng):
  yaw, pitch = (jnp.asarray(rng.uniform(-0.7, 0.7, 5), jnp.float32) for _ in range(2))
  views = views_at(yaw, pitch)
  np.testing.assert_allclose(jnp.stack(camera_poses(views)), jnp.stack([yaw, pitch]), atol=1e-6)
  points = jnp.asarray(rng.uniform(-0.08, 0.08, (5, 3, 4, 3)), jnp.float32).at[..., 2].add(1.0)
  seen = project(gan.model.camera, move(points, views))
  method = Gan2Shape.from_config(CONFIG)
  cameras = method.cameras_at(yaw, pitch)
  away = points_to_world(gan.model.camera, points) - cameras.cam2world[:, None, None, :3, 3]
  inside = jnp.einsum("bji,bhwj->bhwi", cameras.cam2world[:, :3, :3], away)
  scale = jnp.tan(cameras.fov / 2)[:, None, None]
  np.testing.assert_allclose(seen[..., 0], inside[..., 0] / -inside[..., 2] / scale, atol=1e-5)
  np.testing.assert_allclose(seen[..., 1], -inside[..., 1] / -inside[..., 2] / scale, atol=1e-5)


def test_a_relief_is_lit_as_everything_is(gan, rng):
  canonical = gan.model.canonical_of(gan.depth[None], gan.albedo[None])
  codes = jnp.array([[-0.2, 0.1, 0.3, -0.4]])
  texture, shading = lit(canonical, codes)
  color, expected = lambertian(canonical.albedo / 2 + 0.5, canonical.normals, Lights(codes))
  np.testing.assert_allclose(texture / 2 + 0.5, color, atol=1e-6)
  np.testing.assert_allclose(shading[..., None], expected, atol=1e-6)


def test_drawings_have_their_own_subjects_light_and_more(key):
  ranges = Relighting(x=(-0.5, 0.7), y=(0.1, 0.2), strength=(-0.1, 0.6), ambient=-0.6)
  own = jnp.repeat(jnp.array([[-0.4, 0.2, 9.0, 9.0], [0.6, -0.6, 9.0, 9.0]]), 500, 0)
  drawn, kept = Lights(ranges.sample(key, own)), Lights(own)
  u = drawn.diffuse - kept.diffuse
  np.testing.assert_allclose(drawn.ambient, kept.ambient - 0.6 * u, atol=1e-6)
  for values, (low, high) in ((u, ranges.strength), (drawn.code[:, 2], ranges.x), (drawn.code[:, 3], ranges.y)):
    assert low <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high


def test_views_follow_their_prior_whose_yaw_is_scaled_about_the_front(key):
  views = Views(mean=(0.1, 0.2, 0.0, 0.0, 0.0, 0.0), deviation=(0.1, 0.3, 0.0, 0.2, 0.1, 0.0), scale=1.2)
  drawn = np.asarray(views.sample(key, views.given(), 4000))
  np.testing.assert_allclose(drawn.mean(0), (0.1, 0.24, 0, 0, 0, 0), atol=0.02)
  np.testing.assert_allclose(drawn.std(0), (0.1, 0.36, 0.0, 0.2, 0.1, 0.0), rtol=0.05, atol=1e-6)
  again = dataclasses.replace(views, scale=1.0)
  measured = again.measured(jnp.asarray(drawn))
  np.testing.assert_allclose(measured.root @ measured.root.T, np.cov(drawn, rowvar=False), atol=1e-5)
  known = Views(covariance=tuple(map(tuple, np.cov(drawn, rowvar=False).tolist()))).given()
  np.testing.assert_allclose(known.root @ known.root.T, measured.root @ measured.root.T, atol=1e-5)


def test_the_truth_explains_subject_and_samples_and_its_mirror_does_not(gan, rng):
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.4
  samples = jnp.asarray(rng.normal(size=(2, 2, LATENT)), jnp.float32) * 0.4
  method = knowing(Gan2Shape.from_config(changed(objectives={"smooth": 1.0})), gan, latent)
  explain = jax.jit(method._explanation_terms, static_argnames=("joint", "flip"), compiler_options=AS_SHIPPED)
  work = work_of(gan, latent, samples)
  alone = explain({"latents": latent}, work, joint=False, flip=False)
  assert set(alone) == {"l1"}
  assert alone["l1"] < 1e-5
  everything = {"latents": jnp.concatenate([latent[:, None], samples], 1).reshape(-1, LATENT)}
  terms = explain(everything, work, joint=True, flip=False)
  assert set(terms) == {"l1", "samples_l1", "smooth"}
  assert terms["l1"] < 1e-5
  assert terms["samples_l1"] < 1 / 255  # they are kept in 8 bits
  mirrored = explain(everything, work, joint=True, flip=True)
  assert mirrored["l1"] > 0.1
  assert mirrored["samples_l1"] > 0.1
  twin = dataclasses.replace(
    gan, **{name: (x + jnp.flip(x, 1)) / 2 for name, x in (("depth", gan.depth), ("albedo", gan.albedo))}
  )
  front = jnp.zeros((2, LATENT))
  symmetric = knowing(method, twin, front)
  both = jax.jit(symmetric._explanation_terms, static_argnames=("joint", "flip"), compiler_options=AS_SHIPPED)(
    {"latents": front}, work_of(twin, front, samples), joint=False, flip=True
  )
  assert both["l1"] < 1e-5


def test_a_picture_laid_on_its_relief_is_the_albedo(gan, rng):
  latent = jnp.asarray(rng.normal(size=(3, LATENT)), jnp.float32) * 0.4
  canonical = gan.model.canonical_of(*(jnp.repeat(x[None], 3, 0) for x in (gan.depth, gan.albedo)))
  wrong = dataclasses.replace(canonical, albedo=jnp.zeros_like(canonical.albedo))
  own = gan.views(latent), gan.lights(latent)
  laid, _ = jax.jit(gan.model.laid_on)(wrong, gan.image(latent), *own)
  shown = gan.model.canonical_mask(canonical.depth, gan.truth(latent)[1].astype(jnp.float32), own[0]) > 0.99
  error = np.abs(np.asarray(laid.albedo - canonical.albedo)).mean(-1)[np.asarray(shown & (gan.inside > 0.5)[None])]
  assert np.median(error) < 0.05, "coarse pixels, read twice between their centres"
  np.testing.assert_array_equal(laid.depth, canonical.depth)


def test_with_the_pictures_own_texture_albedo_need_not_be_known_but_is_learned(gan, rng):
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.2
  samples = jnp.asarray(rng.normal(size=(2, 2, LATENT)), jnp.float32) * 0.2
  blank = dataclasses.replace(gan, albedo=jnp.zeros_like(gan.albedo))
  everything = {"latents": jnp.concatenate([latent[:, None], samples], 1).reshape(-1, LATENT)}
  found = {}
  for weight in (0.0, 2.0):
    config = changed(objectives={"texture": weight}, masks={"in_loss": True})
    for name, known in (("blank", blank), ("truth", gan)):
      method = knowing(Gan2Shape.from_config(config), known, latent)
      explain = jax.jit(method._explanation_terms, static_argnames=("joint", "flip"))
      found[weight, name] = explain(everything, work_of(gan, latent, samples), joint=True, flip=False)
  assert "texture" not in found[0.0, "blank"]
  assert found[2.0, "blank"]["samples_l1"] < 0.5 * found[0.0, "blank"]["samples_l1"]
  np.testing.assert_allclose(found[2.0, "blank"]["samples_l1"], found[2.0, "truth"]["samples_l1"], rtol=1e-5)
  assert found[2.0, "truth"]["texture"] < 0.4 * found[2.0, "blank"]["texture"]


def test_pictures_that_were_kept_are_held_to_what_was_asked_of_them(gan, rng):
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.2
  samples = jnp.asarray(rng.normal(size=(2, 2, LATENT)), jnp.float32) * 0.2
  method = knowing(Gan2Shape.from_config(changed(objectives={"asked": 3.0})), gan, latent)
  everything = {"latents": jnp.concatenate([latent[:, None], samples], 1).reshape(-1, LATENT)}
  work = work_of(gan, latent, samples)
  explain = jax.jit(method._explanation_terms, static_argnames=("joint", "flip"))
  for off in (0.0, 0.1):
    moved = dataclasses.replace(work.samples, views=work.samples.views + off, lights=work.samples.lights - off)
    terms = explain(everything, dataclasses.replace(work, samples=moved), joint=True, flip=False)
    np.testing.assert_allclose(terms["asked_views"], 3 * 6 * off**2, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(terms["asked_lights"], 3 * 4 * off**2, rtol=1e-3, atol=1e-9)
  assert "asked_views" not in explain({"latents": latent}, work, joint=False, flip=False), "step 1 has no samples"


@dataclasses.dataclass(frozen=True)
class LegibleGan:
  """Its pictures are of one colour, which is the style."""

  latent_size: int = 3

  def sample(self, key, n):
    return jax.random.normal(key, (n, 3))

  def image(self, w):
    return jnp.broadcast_to(w[:, None, None], (len(w), SIZE, SIZE, 3))

  def offset(self, o, depth):
    del depth
    return o


class WideGan(LegibleGan):
  """Its styles are ten times as far apart."""

  def sample(self, key, n):
    return 10.0 * super().sample(key, n)


def work_of_legible():
  gan, latent = LegibleGan(), jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
  pictures = gan.image(latent)
  subjects = Subjects(pictures, latent, pictures[..., 0])
  samples = Samples.of(pictures[:, None], pictures[:, None, ..., 0], jnp.zeros((2, 1, 6)), jnp.zeros((2, 1, 4)))
  return Work(Targets(subjects, pictures, pictures[..., 0]), samples, None, gan)


def remembered(views):
  return Memory(views.given(), Directions.none(10, 3))


def read_style(factor, zeros, params, images):
  return jnp.pad(factor * images.mean((1, 2)), ((0, 0), (0, zeros)))


def reading(method, factor):
  """The method, whose offset, view and light networks say `factor` times the style."""
  model = dataclasses.replace(method.model)
  styles = {"offset": lambda images: factor * images.mean((1, 2))}
  object.__setattr__(model, "apply", lambda params, name, images: styles[name](images))
  for name, zeros in (("views", 3), ("lights", 1)):
    object.__setattr__(model, name, partial(read_style, factor, zeros))
  return dataclasses.replace(method, model=model)


def test_offsets_between_pictures_of_known_styles_are_learned(key):
  work = work_of_legible()
  method = Gan2Shape.from_config(CONFIG)
  masks = jnp.ones((4, SIZE, SIZE))
  error = [reading(method, factor)._offsets_between_pictures({}, work, masks, key) for factor in (1.0, 0.5, 0.0)]
  assert error[0] < 1e-10
  np.testing.assert_allclose(error[1], error[2] / 4, rtol=1e-5)
  subjects = dataclasses.replace(work.targets.subjects, latent=10 * work.targets.subjects.latent)
  wide = dataclasses.replace(work, gan=WideGan(), targets=dataclasses.replace(work.targets, subjects=subjects))
  np.testing.assert_allclose(reading(method, 0.0)._offsets_between_pictures({}, wide, masks, key), error[2], rtol=1e-5)
  cut = dataclasses.replace(method, masks=MaskConfig(background=0.0))
  hidden = reading(cut, 1.0)._offsets_between_pictures({}, work, 0 * masks, key)
  assert hidden > 0.5, "nothing is seen of pictures through empty masks"


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_a_search_goes_on_from_the_encoders_answer_and_drawings_do_not_meet_in_it(factor, key):
  """An answer that is right stays; from one that says nothing the search comes to the drawings, each for itself."""
  config = changed(gan={"refine": 200}, objectives={"features": 0.0})
  method, work = reading(Gan2Shape.from_config(config), factor), work_of_legible()
  styles = jnp.array([[0.2, 0.4, -0.3], [0.7, 0.1, -0.5], [0.0, 0.2, 0.3], [-0.6, 0.3, 0.1]])
  shown = work.gan.image(styles)
  drawn = Drawings(shown, jnp.ones(shown.shape[:3]), jnp.zeros((4, 6)), jnp.zeros((4, 4)))
  offset = factor * (styles - jnp.repeat(work.targets.subjects.latent, 2, 0))
  found = method._refined(work, drawn, offset)
  np.testing.assert_allclose(found[:, 0, 0], styles, atol=0.12)  # the rate is 0.1 of a deviation, here about 1
  alone = method._refined(work, jax.tree.map(lambda x: x.at[2:].set(0.0), drawn), offset)
  np.testing.assert_allclose(alone[:2], found[:2], atol=1e-4)


def test_along_its_directions_a_picture_comes_to_be_read_as_was_asked(key):
  """Of views the first three numbers are a third of the style and vary as the prior has them, the others do not."""
  prior = Views(mean=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0), deviation=(0.3, 0.3, 0.3, 0.0, 0.0, 0.0))
  for factor in (0.3, 0.1):
    method, work = reading(Gan2Shape.from_config(CONFIG), factor), work_of_legible()
    measured = method.measured({}, work.gan, prior.given())
    memory = Memory(prior.given(), measured)
    asked = prior.sample(key, memory.views, 4)
    drawn = Drawings(jnp.zeros((4, SIZE, SIZE, 3)), jnp.ones((4, SIZE, SIZE)), asked, jnp.ones((4, 4)))
    offset = method._directed({}, dataclasses.replace(work, memory=memory), drawn)
    found = method.read({}, work.gan.image(jnp.repeat(work.targets.subjects.latent, 2, 0) + offset))
    expected = (np.asarray(asked)[:, :3] - np.array([0.1, 0.0, 0.0])) * factor / 0.3
    np.testing.assert_allclose(found[:, :3], expected, atol=0.08 * factor)  # mean and deviation are measured
  assert (Directions.none(10, 3).offsets(asked[:, :1], asked[:, :1], jnp.zeros(1), jnp.ones(1)) == 0).all()


def test_a_linear_relation_is_found(rng):
  x, matrix = rng.normal(size=(400, 3)), rng.normal(size=(3, 5))
  y = x @ matrix + 7.0 + 0.1 * rng.normal(size=(400, 5))
  found = regression(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
  np.testing.assert_allclose(found, matrix, atol=0.03)


def test_what_is_read_off_fresh_pictures_is_held_to_the_priors_moments(key):
  prior = Views(deviation=(0.2, 0.2, 0.2, 0.0, 0.0, 0.0))
  variance = np.diag([0.3**2] * 3 + [0.0]).tolist()
  config = changed(objectives={"moments": 2.0}, lights={"mean": (0.0,) * 4, "covariance": variance})
  method = Gan2Shape.from_config(config)
  work = dataclasses.replace(work_of_legible(), memory=remembered(prior))
  right, half, none = (reading(method, factor).moment_terms({}, work, key) for factor in (0.2, 0.1, 0.0))
  np.testing.assert_allclose(none["views_moments"], 2 * 3 * 0.2**2, rtol=0.05)
  np.testing.assert_allclose(half["views_moments"], 2 * 3 * 0.1**2, rtol=0.5)
  assert right["views_moments"] < 0.3 * half["views_moments"], "32 pictures tell the moments only roughly"
  np.testing.assert_allclose(none["lights_moments"], 2 * 3 * 0.3**2, rtol=0.05)
  assert right["lights_moments"] < half["lights_moments"] < none["lights_moments"]
  moved = dataclasses.replace(prior, mean=(0.5,) * 3 + (0.0,) * 3)
  elsewhere = dataclasses.replace(work, memory=remembered(moved))
  assert reading(method, 0.2).moment_terms({}, elsewhere, key)["views_moments"] > 1.0
  assert Gan2Shape.from_config(CONFIG).moment_terms({}, work, key) == {}


def test_moments_are_held_as_soon_as_views_are_read(key):
  method = reading(Gan2Shape.from_config(changed(objectives={"moments": 2.0})), 0.1)
  object.__setattr__(method, "reading_terms", lambda *of: {"views": jnp.float32(3.0)})
  work = dataclasses.replace(work_of_legible(), memory=remembered(Views()))
  moments = method.moment_terms({}, work, key)["views_moments"]
  total, terms = method.loss({}, work, key, StagedStage(SIZE, 2, "reading", False))
  assert terms == {"reading/views": 3.0, "reading/views_moments": moments}
  assert total == 3 + moments > 3


class DottedGan(LegibleGan):
  """Pictures of a dot as far to the right of the middle as the style says."""

  def sample(self, key, n, truncation=1.0):
    return super().sample(key, n) * truncation

  def image(self, w):
    place = jnp.arange(SIZE) - SIZE / 2
    dot = jnp.abs(place[None] - 3 * w[:, :1]) < 2
    rows = jnp.abs(place + 0.5) < 4
    picture = jnp.where(rows[None, :, None] & dot[:, None], -1.0, 1.0)
    return jnp.repeat(picture[..., None], 3, -1)


def test_subjects_are_the_best_centred_of_the_candidates(key):
  masks = {"kind": "background", "background": 1.0}
  pick = lambda count, candidates: Gan2Shape.from_config(  # noqa: E731
    changed(subjects={"count": count, "candidates": candidates}, masks=masks)
  ).draw_subjects(DottedGan(), key)
  everyone, few = pick(24, 1), pick(4, 6)
  places = np.asarray(centroids(everyone.mask))[:, 0]
  best = np.sort(np.argsort(np.abs(places - places.mean()))[:4])
  for chosen, all_of in zip(jax.tree.leaves(few), jax.tree.leaves(everyone), strict=True):
    np.testing.assert_array_equal(chosen, all_of[best])


def answered(of_subjects, of_drawings, params, images):
  return of_subjects(params, images) if len(images) == 2 else of_drawings


def test_views_and_lights_are_read_off_drawings(gan, rng, key):
  """The networks that draw know the subjects' truth; of drawings they say the truth, or what is off by 0.1."""
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.2
  work = dataclasses.replace(work_of(gan, latent, jnp.zeros((2, 2, LATENT))), memory=remembered(Views()))
  method = knowing(Gan2Shape.from_config(CONFIG), gan, latent)
  params = {"latents": latent, **method.model.init(key)}
  drawn = method.drawings(params, work, key)
  for off in (0.0, 0.1):
    model = dataclasses.replace(method.model)
    for name, truth in (("views", drawn.views), ("lights", drawn.lights)):
      own = getattr(method.model, name)
      object.__setattr__(model, name, partial(answered, own, truth + off))
    object.__setattr__(model, "canonical", method.model.canonical)
    terms = dataclasses.replace(method, model=model).reading_terms(params, work, key)
    np.testing.assert_allclose(terms["views"], 6 * off**2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(terms["lights"], 4 * off**2, rtol=1e-4, atol=1e-9)


def test_lights_of_drawings_follow_a_prior_of_the_worlds_frame(key):
  lights = Relighting(mean=(-0.3, 0.2, 0.5, 0.1), covariance=tuple(map(tuple, np.diag([0.01, 0.04, 0.09, 0.0]))))
  drawn = lights.sample(key, jnp.full((4000, 4), 7.0))
  mean, deviation = lights.moments()
  np.testing.assert_allclose(mean, [-0.3, 0.2, -0.5, 0.1], atol=1e-6)
  np.testing.assert_allclose(drawn.mean(0), mean, atol=0.02)
  np.testing.assert_allclose(drawn.std(0), deviation, atol=0.02)
  with pytest.raises(UserError, match=r"config\.lights"):
    Relighting(mean=(0.0,) * 4)


def test_a_picture_tells_nothing_of_what_it_hides_or_shows_edge_on(gan):
  size, model = SIZE, gan.model
  columns = jnp.arange(size)
  step = jnp.where((columns >= 6) & (columns < 10), 0.9, 1.0)[None, None] * jnp.ones((1, size, 1))
  canonical = model.canonical_of(step, jnp.zeros((1, size, size, 3)))
  image, lights = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 4))
  front = model.laid_on(canonical, image, views_at(jnp.zeros(1), jnp.zeros(1)), lights)[1][0, 8]
  np.testing.assert_array_equal(front[jnp.array([2, 3, 7, 8, 12, 13])], 1.0)
  assert not front[jnp.array([5, 10])].any(), "cliffs are seen edge on"
  turned = model.laid_on(canonical, image, views_at(jnp.array([0.5]), jnp.zeros(1)), lights)[1][0, 8]
  behind = np.flatnonzero(np.asarray(front) > np.asarray(turned))
  assert len(behind) > 0
  assert (behind > 9).all() or (behind < 6).all(), "what lies on the far side of the block"


def test_one_ellipsoid_for_all_is_that_of_the_places_most_masks_hold():
  masks = jnp.zeros((3, 16, 16)).at[:, 4:12, 4:12].set(1.0).at[0, :, 12:].set(1.0)
  settings = MaskConfig(near=0.9, far=1.0, radius=0.1, shared=True)
  np.testing.assert_array_equal(settings.prior(masks)[0], settings.prior(masks)[2])
  own = dataclasses.replace(settings, shared=False).prior(masks)
  np.testing.assert_allclose(settings.prior(masks)[0], own[1], atol=1e-6)
  np.testing.assert_allclose(settings.prior(masks)[0, 7, 7:10].min(), 0.9, atol=3e-3)


def test_the_anchor_is_the_shape_that_was_begun_with(gan, rng, key):
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.2
  method = Gan2Shape.from_config(changed(objectives={"anchor": 2.0}))
  networks = method.model.init(key)
  given = {"gan": gan, "subjects": gan.subjects(latent)}
  fresh = method.init(key, dependencies=given).targets.prior
  np.testing.assert_allclose(fresh, method.masks.prior(given["subjects"].mask))
  begun = method.init(key, dependencies={**given, "networks": networks}).targets.prior
  np.testing.assert_allclose(begun, method.model.depth_inside(networks, given["subjects"].image), atol=1e-6)
  samples = jnp.zeros((2, 2, LATENT))
  for prior, expected in ((begun, 0.0), (begun + 0.011, 2 * 0.1**2)):
    work = work_of(gan, latent, samples)
    work = dataclasses.replace(work, targets=dataclasses.replace(work.targets, prior=prior))
    terms = method._explanation_terms(networks, work, joint=True, flip=False)
    np.testing.assert_allclose(terms["anchor"], expected, rtol=1e-3, atol=1e-9)
  assert "anchor" not in method._explanation_terms(networks, work, joint=False, flip=False)


def test_the_height_is_that_of_the_shape_that_was_begun_with(gan, rng, key):
  prior = 1.0 + 0.02 * jnp.asarray(rng.normal(size=(2, SIZE, SIZE)), jnp.float32)
  middle = jnp.mean(prior, (1, 2), keepdims=True)
  for factor in (0.5, 1.0, 1.25):
    depth = middle + factor * (prior - middle) + 0.03
    np.testing.assert_allclose(height_error(depth, prior), (factor - 1) ** 2, rtol=1e-3, atol=1e-6)
  assert np.all(np.isfinite(jax.grad(height_error)(jnp.ones_like(prior), prior))), "of a flat map"
  method = Gan2Shape.from_config(changed(objectives={"height": 3.0}))
  networks, latent = method.model.init(key), jnp.zeros((2, LATENT))
  work = work_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  depth = method.model.depth_inside(networks, work.targets.subjects.image)
  terms = method._explanation_terms(networks, work, joint=True, flip=False)
  np.testing.assert_allclose(terms["height"], 3 * height_error(depth, work.targets.prior), rtol=1e-5)


def test_only_without_a_mean_depth_do_networks_say_how_far_away_things_are(key):
  images = jnp.zeros((1, SIZE, SIZE, 3))
  for mean_depth in (True, False):
    model = Gan2Shape.from_config(changed(relief={"mean_depth": mean_depth})).model
    params = jax.tree.map(jnp.zeros_like, model.init(key))
    object.__setattr__(model, "apply", lambda params, name, images: jnp.full((*images.shape[:3], 1), 5.0))
    depth = model.depth_inside(params, images)
    np.testing.assert_allclose(depth, 1.0 if mean_depth else 1.1, atol=1e-3)


def test_a_drawing_that_is_the_generators_own_picture_moves_nothing(gan, rng, key):
  latent = jnp.asarray(rng.normal(size=(2, LATENT)), jnp.float32) * 0.4
  work = work_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  drawn = jnp.repeat(work.targets.rendition, 2, 0)
  for relative in (True, False):
    method = Gan2Shape.from_config(changed(gan={"relative": relative}))
    params = method.model.init(key)
    corrected, moved = jax.jit(method.corrected)(params, work, drawn)
    assert (float(jnp.abs(moved).max()) < 1e-6) == relative
    assert np.allclose(corrected, drawn, atol=1e-5) == relative


def test_pictures_of_a_larger_generator_are_cropped_and_shrunk(rng):
  image = jnp.asarray(rng.uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
  np.testing.assert_array_equal(GanConfig().resized(image, 8), image)
  ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 3))
  middle = GanConfig(crop=0.5).resized(ramp, 4)
  np.testing.assert_allclose(middle[0, 0, :, 0], [2, 3, 4, 5], atol=1e-5)
  assert middle.shape == (1, 4, 4, 3)
  half = GanConfig().resized(ramp, 4)
  np.testing.assert_allclose(half[0, 0, 1:3, 0], [2.5, 4.5], atol=1e-5)


def test_people_are_shown_the_subject_in_the_worlds_frame(gan, rng):
  latent = jnp.zeros((2, LATENT))
  method = knowing(Gan2Shape.from_config(CONFIG), gan, latent)
  images = gan.image(latent)
  params = {"networks": {"latents": latent}, "pictures": jnp.round(images * 127.5 + 127.5).astype(jnp.uint8)}
  latents = method.sample_latents(jax.random.key(1), 2)
  codes = method.codes(params, latents)
  assert sorted(np.asarray(codes.values[1])) == [0, 1]
  cameras = method.cameras_at(jnp.array([0.0, 0.5]), jnp.array([0.0, 0.2]))
  seen = jax.jit(method.render, static_argnames="resolution", compiler_options=AS_SHIPPED)(
    params, codes, cameras, resolution=SIZE
  )
  inner = slice(2, -2)
  np.testing.assert_allclose(seen.rgb[0, inner, inner], images[0, inner, inner] / 2 + 0.5, atol=0.01)
  np.testing.assert_allclose(seen.extras["input"], images / 2 + 0.5, atol=0.005)
  np.testing.assert_allclose(seen.extras["recon"][0, inner, inner], seen.rgb[0, inner, inner], atol=1e-5)
  inside = np.asarray(gan.inside, bool)
  expected = normals_from_depth(seen.depth, cameras, pixel_grid(SIZE, SIZE))
  angle = np.degrees(np.arccos(np.clip(np.sum(np.asarray(seen.normals * expected), -1), -1, 1)))
  assert np.median(angle[0][inside]) < 1
  assert np.median(angle[1][4:-4, 4:-4]) < 12  # coarse pixels, whose slopes differ between the two views
  # A light from the right, in the world, lights the right side of the head.
  lights = Lights(jnp.array([[-1.0, 1.0, 2.0, 0.0]] * 2))
  shading = jax.jit(method.render, static_argnames="resolution")(
    params, codes, cameras, lights, resolution=SIZE
  ).shading
  left, right = shading[0, 8, 4:6].mean(), shading[0, 8, 10:12].mean()
  assert right > left + 0.3
  smaller = method.render(params, Scene(codes, cameras), resolution=8)
  assert smaller.rgb.shape == (2, 8, 8, 3)
  with pytest.raises(UserError, match="have no field"):
    method.query(params, codes, jnp.zeros((2, 1, 3)))


def test_samples_are_kept_in_8_bits(rng):
  image, mask = rng.uniform(-1, 1, (1, 2, 3, 3, 3)), rng.uniform(0, 1, (1, 2, 3, 3))
  packed = [jnp.asarray(x, jnp.float32) for x in (image, mask, np.zeros((1, 2, 6)), np.zeros((1, 2, 4)))]
  again, mask_again = Samples.of(*packed).unpacked()
  np.testing.assert_allclose(again, image, atol=1 / 255 + 1e-6)
  np.testing.assert_allclose(mask_again, mask, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
  ("sections", "words"),
  [
    ({"gan": {"network": {}}}, "config.gan.network.mapping"),
    ({"views": {"deviation": (1.0,)}}, "config.views"),
    ({"masks": {"kind": "guess"}}, "guess"),
    ({"subjects": {"candidates": 0}}, "config.subjects: count and candidates"),
    ({"subjects": {"instance": True}, "stages": {"images_per_step": 2}}, "images_per_step"),
  ],
)
def test_settings_that_cannot_be_are_refused(sections, words):
  with pytest.raises(UserError, match=words):
    Gan2Shape.from_config(changed(**sections))


def test_lpips_is_said_to_be_missing_before_training(monkeypatch):
  monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[metrics\]'"):
    Gan2Shape.from_config(changed(objectives={"perceptual_net": "vgg16"}))


def test_models_that_a_config_names_are_looked_for_by_name():
  assert with_dependencies({"gan": {"model": ""}, "networks": {}}) == ({"gan": {"model": ""}, "networks": {}}, {})
  with pytest.raises(UserError, match=r"config.gan.model: nowhere: no such model"):
    with_dependencies({"gan": {"model": "nowhere"}})
  with pytest.raises(UserError, match="is no GAN2Shape"):
    with_dependencies({"networks": {"model": "gof-heads"}})


@pytest.mark.parametrize(
  "preset", ["heads", "smoke", "synface_pretrain", "synface", "celeba_pretrain", "celeba", "car"]
)
def test_a_presets_steps_are_those_of_its_stages(preset):
  config = presets.get_config(preset).to_dict()
  method = Gan2Shape.from_config(config)
  assert config["num_steps"] == method.table.length(1 if method.instance else method.subjects.count)
