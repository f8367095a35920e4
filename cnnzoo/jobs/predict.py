"""Classify images with a trained network, and show what it looks at.

Examples:
  python predict.py run=latest images=photo.jpg                       the run in runs/ that finished last
  python predict.py run=runs/flowers/resnet18/... images=DIR          all images in a directory and below
  python predict.py model=resnet model.name=resnet50 model.weights=DEFAULT images='DIR/*.png'
                                                                      a pretrained network: the classes of ImageNet
  find DIR -name '*.jpg' | python predict.py run=latest images=-      paths on standard input, one per line
  python predict.py run=latest images=DIR format=csv out=flowers.csv  a file instead of a table
  python predict.py run=latest images=DIR format=json topk=1 | jq .   one JSON object per image and line
  python predict.py run=latest images=DIR explain=true                pictures of what the network looks at

Keys:
  run=DIR                  a run directory, latest, or a file of a network; or model=... with model.weights=...
  checkpoint=last          the last checkpoint of the run instead of the best one
  trust_code=true          import the code that the run names, if it is of a network of your own (model=custom)
  images=PATH              a file, a directory, a pattern, or - for paths on standard input
  topk=5                   most probable classes to show for each image; of a multi-label network, all that it predicts
  format=table             table, json (one object per line) or csv
  out=FILE                 write the results to a file that does not exist yet; .csv and .json choose the format
  batch_size=64            images that are classified at once
  loader.workers=4         processes that read and decode images
  device=cuda              auto (a GPU if there is one), cpu, cuda, cuda:1 or mps
  precision=32             32 or bf16; the default is bf16 on a GPU that computes in it
  explain=true             write PNGs: Grad-CAM of each image, the filters of the first layer, and feature maps
  out=DIR                  with explain=true, the directory for the pictures (default: explanations/<date_time>)
  explain_limit=16         the number of images to draw
  layer=layer1             layer whose feature maps are drawn for the first image (default: the first convolution)

Results are written as soon as a batch is done, in the order of the images. A file that cannot be read is a row with the
reason. The exit code is 0 if at least one image was classified, otherwise 1. explain=true needs captum and matplotlib:
pip install "cnnzoo[explain]". A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the
traceback behind an error.
"""

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.predict.settings import check_config
from cnnzoo.runtime.imports import imports_without_gc


def main(cfg: DictConfig) -> None:
    """Classify the images of `cfg.images`, and draw pictures if `cfg.explain`."""
    check_config(cfg)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.inference.subject import load_subject
        from cnnzoo.predict.gradcam import check_layer
        from cnnzoo.predict.images import find_images
        from cnnzoo.predict.predictor import resolve_device
        from cnnzoo.predict.run import check_outputs, predict

    resolve_device(str(cfg.device))
    check_outputs(cfg)
    paths = find_images(str(cfg.images))
    subject = load_subject(cfg)
    if hasattr(subject.net, "thresholds") and cli.was_typed("topk"):
        raise UserError(
            f"topk={cfg.topk}: {subject.label} is a multi-label network, so all classes above their thresholds are "
            "written; leave topk out"
        )
    if cfg.layer is not None:
        check_layer(subject.net, str(cfg.layer))
    predict(cfg, subject.net, paths, cli.instantiate(cfg.loader, "loader"))


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="predict", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
