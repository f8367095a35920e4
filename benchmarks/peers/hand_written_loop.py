"""Training as people write it by hand: torch's DataLoader, torchvision's transforms, and a loop.

    python benchmarks/peers/hand_written_loop.py DIR --name resnet18 --workers 2

Trains a network of cnnzoo for one epoch on the JPEGs in DIR/train, which contains one folder per class. On a GPU: bf16,
pinned memory, and algorithms chosen by cuDNN. The weights and images are channels last.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from cnnzoo.models import create_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()
    is_cuda = args.device.type == "cuda"
    torch.backends.cudnn.benchmark = is_cuda

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(args.size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = datasets.ImageFolder(args.folder / "train", transform)
    loader = DataLoader(dataset, args.batch, shuffle=True, num_workers=args.workers, pin_memory=is_cuda, drop_last=True)
    net = create_model(args.name, num_classes=len(dataset.classes)).to(args.device)
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loss_function = nn.CrossEntropyLoss()

    net.train()
    for batch, labels in loader:
        images = batch.to(args.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(args.device.type, torch.bfloat16, enabled=is_cuda):
            loss = loss_function(net(images), labels.to(args.device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
