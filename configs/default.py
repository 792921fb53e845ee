"""The default run: embedded photographs, synthesised weather, two CPU cores, about ten minutes.

    python train.py --config configs/default.py --workdir runs/default

Every knob is here; the other configs say only what they change. Figures of this run: README.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob, with its unit or reason."""
    config = ConfigDict()
    config.seed = 0  # of parameters, data order, crops, weather

    # the network
    config.model = ConfigDict()
    config.model.variant = "small"  # sizes by name, see mofme_jax.models.VARIANTS
    config.model.overrides = ConfigDict()  # sizes that differ from the variant's: any field of Restorer
    config.model.feed_forward = "mofme"  # "dense": no experts; "moe": the mixture of networks the paper compares with
    config.model.num_experts = 4  # E
    config.model.top_k = 2  # K, experts chosen a token
    config.model.router = "deterministic"  # or "linear", "stochastic", "heteroscedastic", "variational", "paper"
    config.model.norm_order = "softmax_topk"  # the paper's; "topk_softmax" makes the chosen weights sum to one
    config.model.router_dropout = 0.1  # p of the router's uncertainty
    config.model.router_passes = 5  # M, of the stochastic and the paper router
    config.model.router_temperature = 1.0  # divides the router's logits: below 1 more decided, above 1 less
    config.model.generator = "linear"  # of an expert's gamma and beta; or "low_rank", "static"
    config.model.rank = 8  # of the low-rank generator
    config.model.dispatch = "auto"  # how tokens get to their experts, see README.md; changes the time, not the output
    config.model.dropout = 0.0  # rate behind every attention and feed-forward
    config.model.error_head = True  # also learns how far off each pixel may be; what is restored stays the same

    # what it sees
    config.data = ConfigDict()
    config.data.photographs = ()  # folders of clean photographs to train on; (): the five embedded ones
    config.data.pairs = ()  # folders of pairs, in any layout known, instead of synthesised weather
    config.data.weights = ()  # share of the examples from each folder; (): by the number of its images
    config.data.tfds = ""  # folder in which TFDS keeps what to train on as array_record; "": no such copy
    config.data.validation = ""  # folder of clean photographs to evaluate on; "": validation/ beside those, or embedded
    config.data.resize = ()  # (H, W) to which pairs are resized first, bicubic; (): as they are
    config.data.crop = 96  # pixels on a training crop's side
    config.data.min_scale = 0.35  # crops are shrunk by up to this factor: more content, more scales
    config.data.weathers = ("haze", "rain", "snow", "raindrop")  # dealt out evenly; mixtures: "rain+haze"
    config.data.severity = ConfigDict()  # bounds, such as rain_strength = (0.5, 2.5), that differ in training from
    # those of mofme_jax.data.weather.degrade; for every weather that has it
    config.data.clean_share = 0.15  # of examples stay clean, so that the network learns to leave alone
    config.data.colour_share = 1.0  # of examples get other colours, so that few photographs are not learnt by heart
    config.data.sky_share = 0.5  # of examples get a plain bright region, which must not be taken for haze
    config.data.cache_gigabytes = 2.0  # of decoded images kept in memory, over all workers
    config.data.workers = 0  # processes that decode and crop; 0: two threads, enough for what memory holds

    # how it learns
    config.train = ConfigDict()
    config.train.steps = 3600  # 0: as many as `epochs` make
    config.train.epochs = 0  # passes over the training set
    config.train.batch = 8  # images a step over all devices; a multiple of weathers x devices
    config.train.schedule = "cosine"  # by step, to the end of the run; "reference": by epoch, as published
    config.train.learning_rate = 1e-3  # peak; 3e-3 does not train
    config.train.warmup = 200  # steps ("reference": epochs)
    config.train.floor = 1e-5  # learning rate at the end
    config.train.weight_decay = 0.01  # AdamW's, on every parameter
    config.train.b2 = 0.999  # decay of Adam's second moment
    config.train.clip_norm = 1.0  # of the gradients, over all parameters; 0: no clipping
    config.train.ema_decay = 0.998  # of the averaged parameters, which are evaluated
    config.train.max_bad_steps = 10  # steps in a row with NaN or inf that are skipped before the run stops
    config.train.host_devices = 2  # CPU only: XLA devices that split the batch (faster than threads); at most the cores
    config.train.dtype = "float32"  # what the network computes in; "bfloat16" on GPU and TPU: parameters stay float32
    config.train.remat = "none"  # "blocks": a transformer block is computed again for its gradient; saves memory
    config.train.accumulate = 1  # micro-batches, one after the other, that a device's part of a batch is computed in
    config.train.weights = ""  # to begin with: a run's folder, a file, "mofme-small", of the same network; "": drawn

    # where it learns: how many devices along each axis of the mesh, see mofme_jax/training/sharding.py
    config.mesh = ConfigDict()
    config.mesh.data = -1  # parts of a batch, each with all the parameters; -1: the rest of the devices
    config.mesh.fsdp = 1  # parts of a batch, over which the parameters are split as well
    config.mesh.expert = 1  # parts of the experts, each with the same images

    # what it minimises
    config.loss = ConfigDict()
    config.loss.kind = "rmse"  # of each image; or "charbonnier", "smooth_l1"
    config.loss.gradient = 0.0  # weight of the L1 distance between image gradients
    config.loss.perceptual = 0.0  # weight of VGG16 features' distance; needs the extra "perceptual"
    config.loss.importance = 0.0  # router: squared variation of the experts' summed gates
    config.loss.load = 0.0  # router: load balancing
    config.loss.z = 0.0  # router: size of the logits

    # what is written, in steps
    config.log_every = 100
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.validate_every = 0  # judges the average as the report does, and keeps the best so far in best/; 0: never, as
    # it takes as long as the report (seconds here, hours on a benchmark's test set), and a cosine ends with its best

    # the report at the end
    config.evaluation = ConfigDict()
    config.evaluation.repeats = 2  # draws of each weather for each photograph, with fixed keys
    config.evaluation.max_side = 640  # pixels; larger photographs are cut to their middle
    config.evaluation.tile = 240  # pixels on a tile's side
    return config
