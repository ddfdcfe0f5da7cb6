"""Options of the image driver ``glance``."""

from oslo_config import cfg

GROUP = cfg.OptGroup("glance", title="Guest images of Glance")

OPTS = [
    cfg.StrOpt(
        "visibility",
        default="private",
        choices=["private", "shared", "community", "public"],
        help="Who sees the images that are imported. Guest images are of no use to others.",
    ),
    cfg.BoolOpt(
        "protected", default=False, help="Have Glance refuse the deletion of imported images."
    ),
    cfg.ListOpt("tags", default=["trove"], help="Tags of imported images, besides the manager."),
    cfg.DictOpt(
        "properties",
        default={"hw_disk_bus": "virtio", "hw_vif_model": "virtio", "hw_rng_model": "virtio"},
        help="Properties of imported images: the devices that servers get.",
    ),
]
