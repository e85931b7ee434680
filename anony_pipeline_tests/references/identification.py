"""Re-identification as one would explain it at a blackboard: a loop over probes, people and photographs."""


def rank1(probes, persons, images, gallery, gallery_persons, gallery_images, *, same_photograph=False):
    """Share of probes whose nearest person in other photographs is their own; others don't count."""
    hits = total = 0
    for probe, person, image in zip(probes, persons, images, strict=True):
        nearest = {}
        for other, other_person, other_image in zip(gallery, gallery_persons, gallery_images, strict=True):
            if other_image == image and not same_photograph:
                continue
            score = sum(float(a) * float(b) for a, b in zip(probe, other, strict=True))
            nearest[other_person] = max(score, nearest.get(other_person, -2))
        if person in nearest:
            total += 1
            hits += max(nearest, key=nearest.get) == person
    return hits / total


def true_accept_rate(probes, persons, images, originals, far):
    """Accept rate of genuine pairs at the similarity that a share ``far`` of impostor pairs of originals exceeds."""
    impostors = [
        float(originals[i] @ originals[j])
        for i in range(len(originals))
        for j in range(i)
        if persons[i] != persons[j] and images[i] != images[j]
    ]
    impostors.sort(reverse=True)
    threshold = impostors[int(len(impostors) * far)]
    rates = []
    for probe, person, image in zip(probes, persons, images, strict=True):
        genuine = [
            float(probe @ original) > threshold
            for original, p, i in zip(originals, persons, images, strict=True)
            if p == person and i != image
        ]
        if genuine:
            rates.append(sum(genuine) / len(genuine))
    return sum(rates) / len(rates)
