"""What the study compares: arms, each with what was predicted of it before any was run, in groups with a question.

"moe" has the plain router of the mixture that the paper replaces: it differs from mofme-linear in the experts alone,
and that from mofme-deterministic in the router alone. An arm that stands in several groups is run once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
      name: of its runs' folders, before the seed.
      overrides: values by path in the config, such as model.router; the rest is configs/study.py's.
      predicted: what was expected of it.
    """

    name: str
    overrides: Mapping[str, Any]
    predicted: str

    def flags(self) -> list[str]:
        """The overrides for train.py's command line."""
        return [f"--config.{path}={value}" for path, value in self.overrides.items()]


@dataclass(frozen=True)
class Group:
    """Arms that answer a question together.

    Attributes:
      question: the question. arms: all arms, in the order of the tables.
      comparisons: names of an arm and of the baseline that it is compared with.
    """

    question: str
    arms: tuple[Arm, ...]
    comparisons: tuple[tuple[str, str], ...]


def mixture(kind: str, predicted: str, experts: int = 4, top_k: int = 2) -> Arm:
    """An arm with E and K in its name where they are not the default's; `kind` is moe or mofme-ROUTER."""
    name = kind + (f"-e{experts}" if experts != 4 else "") + (f"-k{top_k}" if top_k != 2 else "")
    feed_forward, _, router = kind.partition("-")
    return Arm(
        name,
        {
            "model.feed_forward": feed_forward,
            "model.router": router or "linear",
            "model.num_experts": experts,
            "model.top_k": top_k,
        },
        predicted,
    )


def temperature(value: float, predicted: str) -> Arm:
    """The linear router with its logits divided by `value`."""
    linear = mixture("mofme-linear", predicted)
    return Arm(f"mofme-temperature-{value:g}", {**linear.overrides, "model.router_temperature": value}, predicted)


def decided(kind: str, predicted: str) -> Arm:
    """An arm whose logits are divided by 0.5: what it takes for routers to stay far from uniform."""
    arm = mixture(kind, predicted)
    return Arm(f"decided-{kind}", {**arm.overrides, "model.router_temperature": 0.5}, predicted)


def change(name: str, path: str, value: Any, predicted: str) -> Arm:
    """The deterministic arm with one more value."""
    return Arm(name, {**DETERMINISTIC.overrides, path: value}, predicted)


def without(weather: str, predicted: str) -> Arm:
    """The deterministic arm, trained on the other three weathers: three images of each a step, not two."""
    left = tuple(name for name in WEATHERS if name != weather)
    return Arm(f"without-{weather}", {**DETERMINISTIC.overrides, "data.weathers": left, "train.batch": 9}, predicted)


def against(baseline: Arm, arms: tuple[Arm, ...]) -> tuple[tuple[str, str], ...]:
    """Every arm compared with the baseline."""
    return tuple((arm.name, baseline.name) for arm in arms if arm.name != baseline.name)


JUDGED = "study.json"
"""In a run's folder once it is judged."""

WEATHERS = ("haze", "rain", "snow", "raindrop")

MOE = mixture("moe", "within 0.2 dB of mofme-linear, with more parameters")
LINEAR = mixture("mofme-linear", "the baseline: no uncertainty")
DETERMINISTIC = mixture("mofme-deterministic", "within 0.1 dB of linear: it only flattens doubtful routing a little")
HALF = temperature(0.5, "within 0.1 dB of linear, with lower load entropy")

ROUTERS = (
    Arm("dense", {"model.feed_forward": "dense"}, "0.1 to 0.3 dB below linear: one network for all weathers"),
    MOE,
    LINEAR,
    DETERMINISTIC,
    mixture("mofme-stochastic", "equal to deterministic within 0.1 dB, with noisier training"),
    mixture("mofme-paper", "0.1 to 0.3 dB below linear: half of its weights are negative, few tokens are routed alike"),
    mixture("mofme-heteroscedastic", "within 0.1 dB of linear: the variance it learns has nothing to fit but the loss"),
    # asked once the others were known
    mixture("mofme-variational", "within 0.1 dB of linear, as heteroscedastic: noise in the choice helps no choice"),
    HALF,
    temperature(2.0, "within 0.1 dB of linear, as deterministic: dividing logits is most of what that does"),
)

SIXTEEN = (
    mixture("moe", "the baseline: most parameters", experts=16),
    mixture("mofme-linear", "0 to 0.2 dB below moe, with far fewer parameters", experts=16),
    mixture("mofme-deterministic", "within 0.1 dB of linear", experts=16),
)

DECIDED = (
    LINEAR,
    DETERMINISTIC,
    HALF,
    decided("moe", "below mofme-temperature-0.5 by as much as moe is below linear"),
    decided("mofme-deterministic", "0 to 0.1 dB above mofme-temperature-0.5: doubtful tokens are shared more evenly"),
    decided("mofme-stochastic", "equal to decided-mofme-deterministic within 0.1 dB"),
    decided("mofme-heteroscedastic", "within 0.1 dB of mofme-temperature-0.5"),
)

EXPERTS = tuple(
    mixture(kind, predicted, experts, top_k)
    for kind, predicted in (
        ("moe", "grows with K by 0.1 dB at most, not with E: so short a run has too few tokens for many networks"),
        ("mofme-deterministic", "within 0.2 dB of moe of the same E and K, and flat in both"),
    )
    for experts in (4, 8, 16)
    for top_k in (1, 2, 4)
)

RECIPE = (
    DETERMINISTIC,
    change("order-topk-softmax", "model.norm_order", "topk_softmax", "within 0.1 dB: the network takes up the scale"),
    mixture("mofme-deterministic", "0 to 0.1 dB lower: one modulation a token, whose router learns less", top_k=1),
    mixture("mofme-deterministic", "within 0.1 dB: all experts, softly", top_k=4),
    change("router-dropout-0.3", "model.router_dropout", 0.3, "within 0.1 dB"),
    change("router-dropout-0.5", "model.router_dropout", 0.5, "0 to 0.1 dB lower: routing nears uniform"),
    change("importance-0.01", "loss.importance", 0.01, "within 0.1 dB, load entropy near its largest"),
    change("load-0.01", "loss.load", 0.01, "within 0.1 dB, load entropy near its largest"),
    change("z-0.001", "loss.z", 0.001, "within 0.05 dB: the logits are small anyway"),
    change("rate-5e-4", "train.learning_rate", 5e-4, "0.1 to 0.3 dB lower: too slow for the budget"),
    change("rate-2e-3", "train.learning_rate", 2e-3, "from 0.3 dB lower to 0.1 higher: 3e-3 does not train"),
    change("loss-charbonnier", "loss.kind", "charbonnier", "0 to 0.2 dB lower: easy images weigh little"),
    change("loss-smooth-l1", "loss.kind", "smooth_l1", "0.1 to 0.3 dB lower: small errors weigh little"),
    change("gradient-0.1", "loss.gradient", 0.1, "SSIM up, PSNR within 0.1 dB"),
    change("average-0.99", "train.ema_decay", 0.99, "within 0.05 dB: the learning rate ends near 0"),
    change("generator-static", "model.generator", "static", "0 to 0.1 dB lower, with fewer parameters"),
    change("generator-low-rank", "model.generator", "low_rank", "within 0.1 dB, with fewer parameters"),
    change("mlp-2", "model.overrides.mlp_ratio", 2, "within 0.1 dB"),
    change("mlp-8", "model.overrides.mlp_ratio", 8, "within 0.1 dB"),
    change("decay-0", "train.weight_decay", 0.0, "within 0.05 dB: the run is too short to overfit"),
    change("decay-0.1", "train.weight_decay", 0.1, "within 0.1 dB"),
    change("clean-0.05", "data.clean_share", 0.05, "0 to 0.1 dB higher in weather, clean photographs kept worse"),
    change("clean-0.3", "data.clean_share", 0.3, "0.1 dB lower in weather, clean photographs kept better"),
    change("b2-0.99", "train.b2", 0.99, "within 0.1 dB"),
    change("colour-0.5", "data.colour_share", 0.5, "within 0.1 dB: 91 photographs are not learnt by heart so soon"),
    change("sky-0", "data.sky_share", 0.0, "0 to 0.2 dB lower on clean and hazy skies"),
    # asked once the two above were known
    change("sky-0.25", "data.sky_share", 0.25, "half of what sky-0 brings, half of what it costs clean ones"),
    Arm(
        "sky-0.25-colour-0.5",
        {**DETERMINISTIC.overrides, "data.sky_share": 0.25, "data.colour_share": 0.5},
        "the sum of both: 0.4 to 0.6 dB higher, clean photographs kept as well as before",
    ),
)  # fmt: skip

UNSEEN = (
    DETERMINISTIC,
    without("haze", "haze is hardly lifted (gain below 1 dB): no other weather has a veil that thick"),
    without("rain", "half of rain's gain remains: its veil is haze's"),
    without("snow", "half of snow's gain remains: its veil is haze's, flakes stay"),
    without("raindrop", "raindrops are left as they are, within 0.3 dB of the input"),
)

GROUPS = {
    "routers": Group(
        "Does an uncertainty-aware router beat a plain one, and does routing help at all? (E = 4, K = 2)",
        ROUTERS,
        against(LINEAR, ROUTERS),
    ),
    "sixteen": Group(
        "Is MoFME as good as the mixture of networks it replaces, with many experts? (E = 16, K = 2)",
        SIXTEEN,
        against(SIXTEEN[0], SIXTEEN),
    ),
    "decided": Group(
        "Does uncertainty help a router that has made up its mind? (logits over 0.5; E = 4, K = 2)",
        DECIDED,
        (
            *against(LINEAR, (HALF,)),
            *against(HALF, DECIDED[3:]),
            # asked once the others were known
            *(("decided-mofme-deterministic", other.name) for other in (DETERMINISTIC, LINEAR)),
        ),
    ),
    "experts": Group(
        "What do more experts, and more experts a token, bring? (mofme against moe of the same E and K)",
        EXPERTS,
        tuple((ours.name, theirs.name) for theirs, ours in zip(EXPERTS[:9], EXPERTS[9:], strict=True)),
    ),
    "recipe": Group(
        "What makes MoFME train best? (one change at a time)",
        RECIPE,
        against(DETERMINISTIC, RECIPE),
    ),
    "unseen": Group(
        "What becomes of a weather that was never trained on? (each left out in turn)",
        UNSEEN,
        against(DETERMINISTIC, UNSEEN),
    ),
}
"""By name, as --only takes them."""
