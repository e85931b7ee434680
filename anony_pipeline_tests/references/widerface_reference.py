"""WIDERFace's annotation read the slow, obvious way: it believes the counts, and stops at anything unexpected.

It shares no line with `anony_pipeline.datasets.widerface`, which tells names from rows instead and survives mistakes.
"""

from pathlib import Path

COLUMNS = ("x", "y", "w", "h", "blur", "expression", "illumination", "invalid", "occlusion", "pose")


def read(path: Path) -> list[dict]:
    """All images in order: ``{"name": ..., "faces": [{column: int}, ...]}``, dummy rows left out, all boxes kept."""
    lines = path.read_text().splitlines()
    images = []
    position = 0
    while position < len(lines):
        name = lines[position].strip()
        count = int(lines[position + 1])
        position += 2
        faces = []
        for _ in range(max(count, 1)):
            numbers = [int(part) for part in lines[position].split()]
            if len(numbers) != len(COLUMNS):
                raise ValueError(f"line {position + 1}: {lines[position]!r}")
            if count > 0:
                faces.append(dict(zip(COLUMNS, numbers, strict=True)))
            position += 1
        images.append({"name": name, "faces": faces})
    return images


def counts(images: list[dict]) -> dict[str, int]:
    """Images, boxes kept, invalid ones among them, dropped ones, and images without a box."""
    kept = [[face for face in image["faces"] if face["w"] > 0 and face["h"] > 0] for image in images]
    boxes = sum(len(faces) for faces in kept)
    return {
        "images": len(images),
        "boxes": boxes,
        "iscrowd": sum(face["invalid"] for faces in kept for face in faces),
        "dropped": sum(len(image["faces"]) for image in images) - boxes,
        "images_without_boxes": sum(not faces for faces in kept),
    }
