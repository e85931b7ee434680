"""The configuration: every key, its unit, its range and what more of it costs.

The defaults are the demo's: a few minutes on two CPU cores, without a download. The keys of the original plan keep
their names.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
KindName = Literal["face", "license_plate"]
Profile = Literal["realistic", "blur", "solid"]
PlateAdapter = Annotated[str, Field(pattern=r"^(plate|style_[A-Za-z0-9_]+)$")]


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Paths(Section):
    """Where things lie: local paths or fsspec URLs. In a file, a relative path counts from that file."""

    outputs: str = Field(
        "outputs/demo", description="metrics.csv, checkpoints, scorecard and report of this configuration"
    )
    unified: str = Field(
        "data/unified", description="unified_train.json and unified_val.json; used as they are if already there"
    )
    targets: str = Field("data/targets", description="pseudo-targets; private")
    cache: str = Field("data/cache", description="what can be computed again; private")
    private: str = Field(
        "outputs/demo/private", description="everything else that holds original pixels (val_samples ...); mode 0700"
    )
    weights: str = Field("data/weights", description="downloaded or copied model weights")
    retention_days: Annotated[float, Field(gt=0)] = Field(
        30, description="after so many days `anony purge` removes private artifacts"
    )


class Source(Section):
    """One data set in a known layout."""

    name: str = Field(description="the images' `source` in the unified file")
    layout: Literal["widerface", "pp4av"] = Field(description="how images and annotations are laid out on disk")
    root: str = Field(description="the data set's folder")
    exhaustive: tuple[KindName, ...] = Field(
        description="kinds of which every instance is labeled; of the others, unlabeled ones never count as negatives"
    )
    sequences: bool | None = Field(
        None,
        description="pp4av: frames of videos, split in contiguous blocks (the default), or stills, split by name",
    )
    box_format: Literal["xywh", "xyxy"] = Field(
        "xywh", description="pp4av: how rows give boxes; files that look like the other are refused"
    )
    plate_styles: dict[str, str | None] = Field(
        default_factory=dict, description="group -> plate style; groups left out are null"
    )
    ground_truth: str | None = Field(
        None, description="sidecar with identities, serials and quads, of procedural data only"
    )
    download: str | None = Field(
        None, description="URL or path of a zip or tar archive that is extracted to `root` if `root` is not there"
    )
    sha256: str | None = Field(None, description="the archive's sha256; required with `download` from a URL")
    licence: str | None = Field(None, description="the images' terms, for the report and the release")
    commercial_use: bool | None = Field(
        None, description="whether those terms allow it; null: not known, and then a release says no"
    )


class Streetscape(Section):
    """The procedural data set, written to the sources' folders if they are not there yet."""

    seed: int = Field(0, description="same seed, same bytes")
    people: Positive = Field(60, description="distinct people; each is seen several times")
    scenes: Positive = Field(140, description="images in all, over both layouts and both splits")
    family: Literal["base", "demo"] = Field(
        "demo", description="cameras, light and plate styles: what base models saw, or another"
    )


class Splits(Section):
    """How images go to train and val where the data set itself doesn't say."""

    block_frames: Positive = Field(50, description="frames of a sequence that stay together")
    val_every: Annotated[int, Field(ge=2)] = Field(5, description="every so many blocks (or hashed stills) are val")
    border_frames: Count = Field(5, description="frames left out on each side of a border between train and val")


class Data(Section):
    """What is trained and judged on."""

    sources: tuple[Source, ...] = Field(description="merged in this order")
    streetscape: Streetscape | None = Field(None, description="make the sources' folders procedurally")
    splits: Splits = Splits()
    max_bad_share: Share = Field(0.01, description="above this share of bad images or rows the data set is refused")
    min_region_px: Positive = Field(
        8, description="smaller regions are not trained on; they are anonymized and judged all the same"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Data":
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"sources need distinct names, and at least one source: got {names}")
        return self


class Diffusers(Section):
    """The inpainting model, as diffusers loads it."""

    model_id: str = Field(
        "shipped",
        description="`shipped` (the demo's base), a name of the registry, a hub id, a local diffusers folder, or one "
        "*.safetensors file in Stable Diffusion's original format",
    )
    single_file_config: str | None = Field(
        None,
        description="for a model_id that is one file: a diffusers folder of that architecture, which gives the "
        "configurations and the tokenizer; its weights may be left out",
    )
    revision: str | None = Field(None, description="pins a hub id to one commit")
    enable_xformers: bool = Field(False, description="xFormers attention; refused with the reason where it can't run")
    tiny_vae: str | None = Field(None, description="an AutoencoderTiny (TAESD) for the loss path: a folder or hub id")
    gradient_checkpointing: bool = Field(False, description="less memory for about a third more time")


class Generator(Section):
    """What is inpainted, and at which size."""

    diffusers: Diffusers = Diffusers()
    face_size: Positive = Field(128, description="edge of a face crop in px; SD wants 256 or 512")
    plate_height: Positive = Field(64, description="height of a plate crop in px; its width is three times that")
    face_context: Annotated[float, Field(gt=1)] = Field(
        2.0, description="a face crop's edge over the face's: more shows more surroundings"
    )
    plate_context: Annotated[float, Field(gt=1)] = Field(
        1.5, description="the same for plates: less leaves more pixels for their text"
    )
    small_crops: bool = Field(
        False,
        description="regions whose surroundings fit into half of a crop's size are trained and filled at half of it, "
        "for a quarter of the work: set it before training, the generator must learn it",
    )
    face_prompt: str = Field("a face", description="constant text for faces; encoded once")
    plate_prompt: str = Field("a licence plate", description="constant text for plates; encoded once")

    @model_validator(mode="after")
    def _half_a_crop_is_whole_latents(self) -> "Generator":
        if self.small_crops and (self.face_size % 16 or self.plate_height % 16):
            raise ValueError(
                "small_crops halves crops, whose sizes must then be multiples of 16: got face_size "
                f"{self.face_size} and plate_height {self.plate_height}"
            )
        return self


class Finetune(Section):
    """Which weights of the generator learn."""

    use_lora: bool = Field(True, description="low-rank adapters; false trains all weights of the named layers")
    learnable_layers: tuple[str, ...] = Field(
        ("unet.mid_block", "unet.up_blocks[-1]"),
        description="`unet.mid_block`, `unet.up_blocks[-1]`, `unet.down_blocks[0].attentions[0]`; the loaded UNet's",
    )
    lora_rank: Positive = Field(8, description="more learns more, costs memory and overfits sooner")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(8.0, description="the adapter's scale is lora_alpha / lora_rank")
    style_mix: dict[str, dict[PlateAdapter, Annotated[float, Field(gt=0)]]] = Field(
        default_factory=dict,
        description="plate style -> its adapters with their weights, as in `FR: {plate: 1, style_FR: 0.7}`; adapters "
        "`style_*` are added, and may be shared by styles. Styles left out have `plate` alone. Each mix in a batch "
        "takes a pass of its own",
    )

    @model_validator(mode="after")
    def _mixes_are_of_adapters(self) -> "Finetune":
        if self.style_mix and not self.use_lora:
            raise ValueError("style_mix mixes adapters, and use_lora: false has none: leave one of them out")
        if empty := [style for style, mix in self.style_mix.items() if not mix]:
            raise ValueError(f"style_mix names no adapter for {', '.join(empty)}: give one, or leave the style out")
        return self


class Discriminator(Section):
    """The adversary of the generator: spectrally normalized patches at two scales."""

    enabled: bool = Field(True, description="false trains without an adversary, as adv_weight 0 does")
    channels: Positive = Field(32, description="capacity: more is sharper, then unstable")


class Lpips(Section):
    """The files of LPIPS, a perceptual distance fitted to what people see."""

    network: Literal["alex", "vgg", "squeeze"] = Field(
        "vgg", description="the backbone: vgg is what its authors train with; alex and squeeze are smaller"
    )
    backbone: str = Field(
        description="torchvision's ImageNet weights of that network (vgg16-397923af.pth), as they are published"
    )
    backbone_sha256: str | None = Field(None, description="the file is refused if it has another")
    fitted: str | None = Field(
        None, description="lpips' own weights v0.1 (vgg.pth); null: the copy that torchmetrics brings"
    )
    fitted_sha256: str | None = Field(None, description="the file is refused if it has another")


class Models(Section):
    """All models."""

    generator: Generator = Generator()
    finetune: Finetune = Finetune()
    discriminator: Discriminator = Discriminator()
    lpips: Lpips | None = Field(
        None, description="the perceptual distance's network; null: the frozen detector's backbone"
    )
    plate_style: str | None = Field(
        None,
        description="weights of the job `plate_style`, to guess the country of plates that no table names; null: such "
        "plates become neutral",
    )
    offline: bool = Field(True, description="never ask a network for weights")


class Judges(Section):
    """Models that measure. The first of each kind may serve in a loss; the held-out ones never do."""

    recognizer: str = Field(
        "shipped", description="`shipped`, an InsightFace pack (`buffalo_l`), an ONNX file or our own safetensors"
    )
    held_out_recognizer: str | None = Field(
        "shipped", description="another architecture, in no loss; null: figures say so"
    )
    reader: str = Field("shipped", description="`shipped`, or `easyocr` for EasyOCR's own English model")
    held_out_reader: str | None = Field(
        "shipped", description="another reader, in no loss; or the folder of a model of fast-plate-ocr"
    )
    held_out_detector: str | None = Field(
        "shipped", description="another detector, in no loss; or an ONNX file for cv2.FaceDetectorYN"
    )
    second_recognizer: str | None = Field(
        None,
        description="a further recognizer beside the held-out one, in no loss: an ONNX file or our own safetensors",
    )
    second_reader: str | None = Field(
        None, description="a further reader, in no loss: the folder of a model of fast-plate-ocr, or `easyocr`"
    )
    second_detector: str | None = Field(
        None, description="a further detector, in no loss: an ONNX file for cv2.FaceDetectorYN (faces alone)"
    )
    features: str = Field(
        "shipped",
        description="`shipped` attribute network, `inception` with its weights under paths.weights, or `dinov2` or a "
        "folder with a DINOv2 of transformers",
    )


class Targets(Section):
    """Pseudo-targets: what the generator learns from."""

    face_method: Literal["donor_blend", "k_same", "self"] = Field(
        "donor_blend", description="how a face's target is made"
    )
    k: Annotated[int, Field(ge=2)] = Field(5, description="faces averaged by k_same")
    min_donor_distance: Annotated[float, Field(ge=0, le=2)] = Field(
        0.6, description="1 - cosine that a donor must keep from the original"
    )
    landmarks: str | None = Field(
        None, description="YuNet's ONNX file, for faces whose data set has no landmarks; null: those are aligned by box"
    )


class LossWeights(Section):
    """Weights of the generator's losses; 0 switches a loss off, and then it costs nothing."""

    l1_weight: Weight = Field(1.0, description="to the pseudo-target, inside the mask; times face_l1_scale on faces")
    face_l1_scale: Weight = Field(0.2, description="low: the mean of random donors is a blur")
    perceptual_weight: Weight = Field(
        0.3, description="distance in the network of model.lpips, or of the frozen detector"
    )
    id_suppress_weight: Weight = Field(
        0.1, description="0.1 to 0.25; hinge on the cosine to the original; too much distorts faces"
    )
    adv_weight: Weight = Field(0.05, description="realism; too much collapses modes")
    detection_weight: Weight = Field(0.1, description="regions stay findable for the frozen detector")
    reading_weight: Weight = Field(0.1, description="CTC of the intended serial")
    read_suppress_weight: Weight = Field(0.0, description="pushes the reading away from the original serial, bounded")
    r1_weight: Weight = Field(1.0, description="gradient penalty of the discriminator on real crops")


class LearningRates(Section):
    """Adam's learning rates."""

    generator: Annotated[float, Field(gt=0)] = 2e-4
    discriminator: Annotated[float, Field(gt=0)] = 2e-4
    detector: Annotated[float, Field(gt=0)] = 1e-4


class Alternating(Section):
    """Steps of each network in one cycle of joint training; 0 leaves a network as it is."""

    detector: Count = 1
    generator: Count = 2
    discriminator: Count = 1


class Training(Section):
    """Lengths, sizes and intervals."""

    max_steps: Positive = Field(40, description="generator steps of joint training")
    pretrain_steps: Count = Field(20, description="generator steps on pseudo-targets alone before")
    batch_size: Positive = Field(4, description="crops a step, of all passes and processes together")
    accumulation: Positive = Field(
        1, description="passes that a step's crops are split into: the same result for less memory and more time"
    )
    fsdp: bool = Field(
        False,
        description="each of several processes keeps its share of the generator's frozen weights in place of all: for "
        "SDXL on small GPUs; refused where there is one process",
    )
    torch_compile: bool = Field(
        False,
        description="compile the UNet's transformer blocks, a graph for each of their shapes and mixes of adapters: "
        "minutes before the first steps; refused with the reason where it can't run",
    )
    mask_variants: Count = Field(
        0,
        description="grown masks of a crop, whose latents are computed once and kept under paths.cache; 0 grows anew "
        "and encodes at every step: free with the demo's codec, half of the step with a real autoencoder",
    )
    detector_batch_size: Positive = Field(2, description="whole images a detector step")
    detector_image_px: Positive = Field(320, description="longer edge of the detector's images")
    max_gradient_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="gradients are clipped to this norm, a network"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="moving average of the generator; 0.999 on long runs"
    )
    validate_every_steps: Positive = Field(20, description="how often validation figures and val_samples are made")
    validation_regions: Positive = Field(48, description="regions of a validation in training; the scorecard uses all")
    max_images: Count = Field(
        0,
        description="training images, drawn by lot evenly over the sources; 0 is all. Each takes disk for its crops "
        "(1.8 MB each at 512 px) and for the detector (5.5 MB at 960 px)",
    )
    folds: Positive = Field(
        1, description="for cross-fitting: parts of the training images, of which one is left out; 1 leaves out none"
    )
    left_out: Count = Field(0, description="which fold is not trained on, from 0; `anony cross-fit` runs them all")
    canaries: Annotated[int, Field(ge=0, multiple_of=2)] = Field(
        0,
        description="for an audit: faces of which a half is trained on with themselves as targets, and a half is left "
        "out; metrics.csv then has canary_auc, and the checkpoint can't be released",
    )
    max_bad_steps: Count = Field(
        10, description="steps with a non-finite loss are skipped and counted; one more stops the run"
    )

    @model_validator(mode="after")
    def _compiled_weights_are_whole(self) -> "Training":
        if self.fsdp and self.torch_compile:
            raise ValueError("fsdp and torch_compile were never run together: switch one of them off")
        return self

    @model_validator(mode="after")
    def _the_fold_is_there(self) -> "Training":
        if self.left_out >= self.folds:
            raise ValueError(f"left_out counts from 0 and must be below folds: got {self.left_out} of {self.folds}")
        return self


class Checkpoint(Section):
    """What is kept."""

    save_every_steps: Positive = Field(20, description="generator steps between checkpoints")
    keep_last: Positive = Field(2, description="older ones are removed; the best is kept")


class Gates(Section):
    """What a checkpoint must reach to be released. A figure that is null fails its gate."""

    max_reid_excess: Share = Field(0.03, description="upper bound of rank-1 minus `other_face`")
    max_plate_leak_rate: Share = Field(0.01, description="upper bound")
    min_map_retention: Share = Field(0.95, description="held-out detector")
    min_coverage: Share = Field(0.95, description="share of regions covered by half or more, on detected boxes")
    max_kid_of_inpaint: Annotated[float, Field(gt=0)] = Field(0.25, description="KID over that of OpenCV's inpainting")
    max_memorization_gap: Share = Field(
        0.1, description="upper bound of the similarity on training faces minus that on val faces"
    )


class Floors(Section):
    """What a judge must reach on the originals before its figures count: a blind judge finds everything private."""

    reid_rank1: Share = 0.5
    plate_exact: Share = 0.5
    detector_map50: Share = 0.3


class Attacks(Section):
    """Attackers who train a network against each method. Each costs minutes on a CPU: none is on by default."""

    kinds: tuple[Literal["parrot", "restoration"], ...] = Field(
        (), description="parrot: a recognizer retrained on anonymized faces; restoration: a network that undoes them"
    )
    methods: tuple[str, ...] = Field(
        ("anonymizer", "blur", "pixelate", "solid", "other_face"), description="attacked, beside the originals"
    )
    steps: Positive = Field(80, description="updates of an attacker's network: more is a stronger attacker")
    max_faces: Annotated[int, Field(ge=20)] = Field(2000, description="faces that attackers get; 38 kB a method each")


class Evaluation(Section):
    """How checkpoints are judged."""

    baselines: tuple[Literal["none", "blur", "pixelate", "solid", "inpaint", "other_face", "base", "fit"], ...] = Field(
        ("none", "blur", "pixelate", "solid", "inpaint", "other_face", "base", "fit"),
        description="judged in the same run as the checkpoint",
    )
    bootstrap: Positive = Field(200, description="resamples for intervals")
    min_samples: Positive = Field(10, description="a slice with fewer says so instead of giving a figure")
    widerface_ground_truth: str | None = Field(
        None,
        description="eval_tools/ground_truth of WIDERFace, for its easy, medium and hard; images in their own size",
    )
    max_images: Count = Field(0, description="val images judged; 0 is all")
    memorization_images: Positive = Field(
        64, description="training images, and as many val images, on which memorization is measured"
    )
    detection_threshold: Share = Field(0.3, description="score from which on a detected face is anonymized")
    plate_detection_threshold: Share = Field(0.3, description="score from which on a detected plate is anonymized")
    gallery_pictures: Positive = Field(8, description="procedural before/after pictures in the report")
    attacks: Attacks = Attacks()
    floors: Floors = Floors()
    gates: Gates = Gates()


class Config(Section):
    """The whole configuration."""

    name: str = Field("demo", description="in titles and run names")
    seed: int = Field(0, description="all randomness is a function of seed, stream and step")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1")
    profile: Profile = Field(
        "realistic",
        description="what is done to regions, as the place asks: generated ones; a blur where a face may not be "
        "recognized as a face any more; or solid color. A release keeps the one that was judged",
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="fp16 needs a GPU; trained weights stay fp32"
    )
    face_steps: Annotated[int, Field(ge=1, le=4)] = Field(1, description="sampling steps for faces, from pure noise")
    plate_steps: Annotated[int, Field(ge=1, le=4)] = Field(
        1, description="sampling steps for plates, from the anchored text"
    )
    plate_text_anchor_strength: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="start timestep over 999: lower keeps more of the rendered text"
    )
    plate_text_font_ratio_min: Annotated[float, Field(gt=0, le=1)] = Field(
        0.55, description="glyph height over plate height, at least"
    )
    plate_text_font_ratio_max: Annotated[float, Field(gt=0, le=1)] = Field(
        0.75, description="glyph height over plate height, at most"
    )
    plate_text_blocked: tuple[str, ...] = Field(
        (), description="texts that no new plate contains; separators and case don't count"
    )
    paths: Paths = Paths()
    data: Data
    model: Models = Models()
    judges: Judges = Judges()
    targets: Targets = Targets()
    training: Training = Training()
    loss: LossWeights = LossWeights()
    lr: LearningRates = LearningRates()
    alternating: Alternating = Alternating()
    checkpoint: Checkpoint = Checkpoint()
    evaluation: Evaluation = Evaluation()

    @property
    def has_adversary(self) -> bool:
        """Whether a discriminator learns: it is switched on, and the generator's loss before it has a weight."""
        return self.model.discriminator.enabled and self.loss.adv_weight > 0

    @model_validator(mode="after")
    def _somebody_learns(self) -> "Config":
        steps = self.alternating
        if not (steps.detector or steps.generator or (steps.discriminator and self.has_adversary)):
            raise ValueError(
                "at least one network needs a step in a cycle: got alternating.detector 0, generator 0 and "
                f"discriminator {steps.discriminator}, which learns where model.discriminator.enabled is true (got "
                f"{str(self.model.discriminator.enabled).lower()}) and loss.adv_weight is above 0 (got "
                f"{self.loss.adv_weight:g})"
            )
        return self

    @model_validator(mode="after")
    def _ratios_are_ordered(self) -> "Config":
        low, high = self.plate_text_font_ratio_min, self.plate_text_font_ratio_max
        if low > high:
            raise ValueError(
                f"plate_text_font_ratio_min must not exceed plate_text_font_ratio_max: got {low} and {high}"
            )
        return self
