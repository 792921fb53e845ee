"""The sets of the field, in one table for the readers of folders, the TFDS builders and the doctor.

None may be redistributed here: a person brings them.
"""

from mofme_jax.data import rules
from mofme_jax.data.layouts import Layout

_OTHERS = "See the set's own page."
_TRANSWEATHER = (
    "@inproceedings{valanarasu2022transweather,\n  title={TransWeather: Transformer-based Restoration of "
    "Images Degraded by Adverse Weather Conditions},\n  author={Valanarasu, Jeya Maria Jose and Yasarla, Rajeev "
    "and Patel, Vishal M.},\n  booktitle={CVPR},\n  year={2022}\n}"
)
_CITYSCAPES = "Under the terms of Cityscapes: no redistribution."

LAYOUTS = (
    Layout(
        name="all_weather",
        title="All-Weather as MoFME lays it out: rain, raindrops and snow in one",
        tree="    train/{input,gt}/NAME.png\n    test_rain/{input,gt}/NAME.png\n    test_snow/{input,gt}/NAME.png\n"
        "    test_raindrop/input/X_rain.png  test_raindrop/gt/X_clean.png",
        terms="Parts of Snow100K, RainDrop and Outdoor-Rain, under the terms of each.",
        citation=_TRANSWEATHER,
        published={"train": 18069},
        folders=rules.all_weather_mofme,
        rule=rules.all_weather_rule,
    ),
    Layout(
        name="all_weather_transweather",
        title="All-Weather as TransWeather lays it out, with lists of files",
        tree="    data/train/allweather.txt  data/train/<set>/{input,gt}/NAME\n    data/test/{test1,raindroptesta,"
        "snowtest100k_L}.txt  data/test/<set>/{input,gt}/NAME\n    (each line of a list: <set>/input/NAME, below the "
        "folder of the list, which may be any, three deep at most)",
        terms="Parts of Snow100K, RainDrop and Outdoor-Rain, under the terms of each.",
        citation=_TRANSWEATHER,
        published={"train": 18069, "test_rain": 750, "test_raindrop": 58, "test_snow": 16801},
        folders=rules.all_weather_transweather,
        rule=rules.all_weather_rule,
    ),
    Layout(
        name="snow100k",
        title="Snow100K: synthetic snow in three sizes, and real snow",
        tree="    train/{synthetic,gt}/NAME.jpg  (or all/, as the archive unpacks)\n"
        "    test/Snow100K-{S,M,L}/{synthetic,gt}/NAME.jpg\n    realistic/NAME.jpg\n"
        "    (or as the archives unpack in Snow100K-training/ and Snow100K-testset/)",
        terms=_OTHERS,
        citation="@article{liu2018desnownet,\n  title={DesnowNet: Context-Aware Deep Network for Snow Removal},\n"
        "  author={Liu, Yun-Fu and Jaw, Da-Wei and Huang, Shih-Chia and Hwang, Jenq-Neng},\n"
        "  journal={IEEE Transactions on Image Processing},\n  year={2018}\n}",
        published={"train": 50000, "test_s": 16611, "test_m": 16588, "test_l": 16801, "realistic": 1329},
        folders=rules.snow100k,
        rule=rules.snow_rule,
    ),
    Layout(
        name="raindrop",
        title="RainDrop: photographs through a wet and a dry pane",
        tree="    {train,test_a,test_b}/data/X_rain.png  {train,test_a,test_b}/gt/X_clean.png",
        terms=_OTHERS,
        citation="@inproceedings{qian2018attentive,\n  title={Attentive Generative Adversarial Network for Raindrop "
        "Removal from a Single Image},\n  author={Qian, Rui and Tan, Robby T. and Yang, Wenhan and Su, Jiajun and "
        "Liu, Jiaying},\n  booktitle={CVPR},\n  year={2018}\n}",
        published={"train": 861, "test_a": 58},
        folders=rules.raindrop,
        rule=rules.raindrop_rule,
    ),
    Layout(
        name="outdoor_rain",
        title="Outdoor-Rain: heavy rain with its veil",
        tree="    {in,input}/im_0001_s80_a04.png  gt/im_0001.png\n    (or train/ or OutdoorRain/, and test1/, with "
        "these two in each; without test1/ the scenes im_0301 to im_0350 become it)",
        terms=_OTHERS,
        citation="@inproceedings{li2019heavy,\n  title={Heavy Rain Image Restoration: Integrating Physics Model and "
        "Conditional Adversarial Learning},\n  author={Li, Ruoteng and Cheong, Loong-Fah and Tan, Robby T.},\n"
        "  booktitle={CVPR},\n  year={2019}\n}",
        published={"train": 8250, "test1": 750},
        folders=rules.outdoor_rain,
        rule=rules.outdoor_rain_rule,
        divide=rules.hold_test1_out,
    ),
    Layout(
        name="rain_cityscapes",
        title="RainCityscapes: rain and fog by depth over Cityscapes",
        tree="    leftImg8bit_rain/<split>/<city>/ID_leftImg8bit_rain_alpha_A_beta_B_dropsize_S_pattern_P.png\n"
        "    leftImg8bit/<split>/<city>/ID_leftImg8bit.png",
        terms=_CITYSCAPES,
        citation="@inproceedings{hu2019depth,\n  title={Depth-Attentional Features for Single-Image Rain Removal},\n"
        "  author={Hu, Xiaowei and Fu, Chi-Wing and Zhu, Lei and Heng, Pheng-Ann},\n  booktitle={CVPR},\n"
        "  year={2019}\n}",
        published={"train": 9432, "val": 1188},
        folders=rules.cityscapes("leftImg8bit_rain"),
        rule=rules.cityscapes_rule("rain"),
    ),
    Layout(
        name="foggy_cityscapes",
        title="Foggy Cityscapes: fog by depth over Cityscapes, in three densities",
        tree="    leftImg8bit_foggy/<split>/<city>/ID_leftImg8bit_foggy_beta_{0.005,0.01,0.02}.png\n"
        "    leftImg8bit/<split>/<city>/ID_leftImg8bit.png",
        terms=_CITYSCAPES,
        citation="@article{sakaridis2018semantic,\n  title={Semantic Foggy Scene Understanding with Synthetic Data},\n"
        "  author={Sakaridis, Christos and Dai, Dengxin and Van Gool, Luc},\n"
        "  journal={International Journal of Computer Vision},\n  year={2018}\n}",
        published={"train": 8925, "val": 1500, "test": 4575},  # three for each of Cityscapes' images
        folders=rules.cityscapes("leftImg8bit_foggy", "leftImg8bit_foggyDBF"),
        rule=rules.cityscapes_rule("haze"),
    ),
    Layout(
        name="reside",
        title="RESIDE: hazy photographs, OTS to train on, SOTS to test on",
        tree="    OTS/hazy/0001_0.8_0.2.jpg  OTS/clear/0001.jpg\n"
        "    SOTS/outdoor/hazy/0001_0.8_0.2.jpg  SOTS/outdoor/gt/0001.png\n"
        "    SOTS/indoor/hazy/1400_1.png  SOTS/indoor/gt/1400.png  (a target 20 pixels larger is cut to its middle)\n"
        "    (or SOTS/indoor/nyuhaze500; or by such names, {hazy,haze,ITS_haze} and {clear,gt,ITS_clear} two folders "
        "deep at most:\n    ITS/train, {reside-indoor,reside-outdoor}/{train,test}, {indoor,outdoor})",
        terms=_OTHERS,
        citation="@article{li2019benchmarking,\n  title={Benchmarking Single-Image Dehazing and Beyond},\n"
        "  author={Li, Boyi and Ren, Wenqi and Fu, Dengpan and Tao, Dacheng and Feng, Dan and Zeng, Wenjun and Wang, "
        "Zhangyang},\n  journal={IEEE Transactions on Image Processing},\n  year={2019}\n}",
        published={"train": 313950, "sots_outdoor": 500, "sots_indoor": 500},
        folders=rules.reside,
        rule=rules.reside_rule,
    ),
    Layout(
        name="rain13k",
        title="Rain13K and its tests: streaks of rain",
        tree="    train/{input,target}/NAME\n    {Rain100H,Rain100L,Test100,Test1200,Test2800}/{input,target}/NAME\n"
        "    (or Rain100H/rain/rain-001.png  Rain100H/norain/norain-001.png)",
        terms="Collected from several sets, under the terms of each.",
        citation="@inproceedings{zamir2021multi,\n  title={Multi-Stage Progressive Image Restoration},\n"
        "  author={Zamir, Syed Waqas and Arora, Aditya and Khan, Salman and Hayat, Munawar and Khan, Fahad Shahbaz "
        "and Yang, Ming-Hsuan and Shao, Ling},\n  booktitle={CVPR},\n  year={2021}\n}",
        published={"rain100h": 100, "rain100l": 100, "test1200": 1200, "test2800": 2800},
        folders=rules.rain13k,
        rule=rules.rain_rule,
    ),
    Layout(
        name="paired_folder",
        title="any folder of pairs",
        tree="    <split>/{input,gt}/NAME  or  {input,gt}/NAME  (the target has its input's name, or X_clean for "
        f"X_rain, norain-1 for rain-1)\n    inputs may lie in {', '.join(rules.INPUTS)};\n"
        f"    targets in {', '.join(rules.TARGETS)}",
        terms="The user's own.",
        citation="",
        published={},
        folders=rules.paired_folder,
        rule=rules.own_name,
    ),
    Layout(
        name="photographs",
        title="clean photographs, on which weather is synthesised",
        tree="    NAME.jpg  or  train/NAME.jpg and validation/NAME.jpg  (folders in them count)",
        terms="The user's own.",
        citation="",
        published={},
        folders=rules.photographs,
        rule=rules.own_name,
        doubt=rules.doubt_photographs,
    ),
)
"""Every layout, from the particular to the general: the first that fits a folder is taken."""


def layout_named(name: str) -> Layout:
    """The layout of that name.

    Raises:
      ValueError: there is none; the message lists those there are.
    """
    by_name = {layout.name: layout for layout in LAYOUTS}
    if name not in by_name:
        raise ValueError(f"layout {name!r} is unknown; choose one of {', '.join(by_name)}")
    return by_name[name]
