"""WIDERFace's official evaluation, line by line: loops over images and thresholds, as ``eval_tools`` has them.

It follows ``evaluation.m``, ``image_evaluation.m``, ``image_pr_info.m`` and ``norm_score.m`` of the official tools.
"""

import numpy as np

THRESHOLDS = 1000
MIN_IOU = 0.5


def overlaps(detection, faces):
    """IoU of one box with many, x, y, w, h; pixels are counted from first to last."""
    left, top = np.maximum(detection[0], faces[:, 0]), np.maximum(detection[1], faces[:, 1])
    right = np.minimum(detection[0] + detection[2], faces[:, 0] + faces[:, 2])
    bottom = np.minimum(detection[1] + detection[3], faces[:, 1] + faces[:, 3])
    width, height = right - left + 1, bottom - top + 1
    shared = np.where((width > 0) & (height > 0), width * height, 0)
    areas = (detection[2] + 1) * (detection[3] + 1) + (faces[:, 2] + 1) * (faces[:, 3] + 1)
    return shared / (areas - shared)


def image_evaluation(detections, faces, counted):
    recall_list, proposal_list = np.zeros(len(faces)), np.ones(len(detections))
    pred_recall = np.zeros(len(detections))
    for h, detection in enumerate(detections):
        overlap = overlaps(detection, faces)
        place = overlap.argmax()
        if overlap[place] >= MIN_IOU:
            if not counted[place]:
                recall_list[place] = -1
                proposal_list[h] = -1
            elif recall_list[place] == 0:
                recall_list[place] = 1
        pred_recall[h] = (recall_list == 1).sum()
    return pred_recall, proposal_list


def image_pr_info(scores, proposal_list, pred_recall):
    info = np.zeros((THRESHOLDS, 2))
    for t in range(THRESHOLDS):
        threshold = 1 - (t + 1) / THRESHOLDS
        indices = np.where(scores >= threshold)[0]
        if len(indices):
            last = indices[-1]
            info[t] = (proposal_list[: last + 1] == 1).sum(), pred_recall[last]
    return info


def voc_ap(recall, precision):
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    places = np.where(recall[1:] != recall[:-1])[0]
    return ((recall[places + 1] - recall[places]) * precision[places + 1]).sum()


def average_precision(truth, detections, difficulty):
    """One difficulty's figure; see ``anony_pipeline.evaluation.widerface_protocol`` for the arguments."""
    everything = np.concatenate([rows[:, 4] for rows in detections.values()])
    low, high = everything.min(), everything.max()
    curve, faces = np.zeros((THRESHOLDS, 2)), 0
    for name, image in truth.items():
        counted = image.counted[difficulty]
        faces += counted.sum()
        rows = detections.get(name)
        if rows is None or not len(rows) or not len(image.boxes_xywh):
            continue
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        pred_recall, proposal_list = image_evaluation(rows, image.boxes_xywh, counted)
        curve += image_pr_info((rows[:, 4] - low) / (high - low), proposal_list, pred_recall)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(curve[:, 1] / curve[:, 0])
    return voc_ap(curve[:, 1] / faces, precision)
