"""The published image sources and validation sets: weights of stages 2 and 3, file names as the code reads them."""

from mmcore import Source, Validation

COCO = Source(
    weight=1.5,
    format="COCO instances",
    annotations="coco/annotations/instances_train2017.json",
    images="coco/train2017",
    options={"task": "coco"},
)
REFCOCO = Source(
    weight=2.5,
    format="RefCOCO-COCO",
    annotations="annotations/refcoco-mixed/instances_train.json",
    images="coco/train2014",
    options={"task": "grounding"},
)
OBJECTS365 = Source(
    weight=1.5,
    format="COCO boxes",
    annotations="Objects365V2/annotations/zhiyuan_objv2_train_new.json",
    images="Objects365V2/images",
    options={"task": "obj365"},
)
OPENIMAGES = Source(
    weight=1.5,
    format="COCO boxes",
    annotations="open_image/openimages_v6_train_bbox_splitdir.json",
    images="openimages/detection",
    options={"task": "openimage"},
)
LVIS = Source(
    weight=1.5, format="LVIS v1", annotations="lvis/lvis_v1_train.json", images="coco", options={"task": "lvis"}
)
VG_OBJECTS = Source(
    weight=1.5,
    format="Visual Genome phrases",
    annotations="visual_genome/annotations/train_from_objects.json",
    images="visual_genome/images",
    options={"task": "vg"},
)
VG_REGIONS = VG_OBJECTS.replace(annotations="visual_genome/annotations/train.json")
GRIT = Source(
    weight=5.0,
    format="Visual Genome phrases",
    annotations="GRIT20M/grit_5m.json",
    images="grit-20m/images",
    options={"task": "grit"},
)
SA1B = Source(
    weight=2.0,
    format="SA-1B index and sidecars",
    annotations="SA1B_scaleup/sa1b_500k.json",
    images="SA1B_scaleup/images",
    options={"task": "sa1b"},
)
UVO = Source(
    weight=0.2,
    format="COCO instances",
    annotations="custom_annotations/UVO/annotations/FrameSet/UVO_frame_train_onecategory.json",
    images="UVO/uvo_videos_frames",
    options={"task": "sa1b"},
)
BDD_DETECTION = Source(
    weight=0.1,
    format="COCO boxes",
    annotations="bdd100k/labels/det_20/det_train_cocofmt.json",
    images="bdd100k/images/100k/train",
    options={"task": "bdd_det"},
)
BDD_INSTANCES = Source(
    weight=0.05,
    format="COCO instances",
    annotations="bdd100k/labels/ins_seg/polygons/ins_seg_train_cocoformat.json",
    images="bdd100k/images/10k/train",
    options={"task": "bdd_inst"},
)
YTVIS19_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ytvis_2019/annotations/ytvis19_cocofmt.json",
    images="ytvis_2019/train/JPEGImages",
    options={"task": "image_yt19"},
)
YTVIS21_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ytvis_2021/annotations/ytvis21_cocofmt.json",
    images="ytvis_2021/train/JPEGImages",
    options={"task": "image_yt21"},
)
OVIS_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ovis/ovis_cocofmt.json",
    images="ovis/train",
    options={"task": "image_o"},
)
YTVOS_FRAMES = Source(
    weight=0.3,
    format="RefCOCO-COCO",
    annotations="custom_annotations/RVOS_refcocofmt.json",
    images="ref-youtube-vos/train/JPEGImages",
    options={"task": "grounding"},
)

COCO_VAL = Validation(
    metrics=("bbox/AP", "segm/AP"),
    annotations="coco/annotations/instances_val2017.json",
    images="coco/val2017",
    format="COCO instances",
    options={"task": "coco"},
)
OMNILABEL_VAL = Validation(  # assumed: the authors' converted files are not to be had; this is the official one
    metrics=("AP", "categ/AP", "descr/AP"),
    annotations="omnilabel/dataset_all_val_v0.1.3.json",
    images="omnilabel/images",
    format="OmniLabel",
    options={"task": "omnilabel"},
    training=False,
)
REFCOCO_VAL = Validation(
    metrics=("bbox/P@0.5", "segm/oIoU"),
    annotations="annotations/refcoco-unc-val/instances_val.json",
    images="coco/train2014",
    format="RefCOCO-COCO",
    options={"task": "grounding"},
)
LVIS_MINIVAL = Validation(
    metrics=("bbox/AP", "segm/AP"),
    annotations="lvis/lvis_v1_minival_inserted_image_name.json",
    images="coco",
    format="LVIS v1",
    options={"task": "lvis"},
)
OBJECTS365_VAL = Validation(
    metrics=("bbox/AP",),
    annotations="Objects365V2/annotations/zhiyuan_objv2_val_new.json",
    images="Objects365V2/images",
    format="COCO boxes",
    options={"task": "obj365"},
)
