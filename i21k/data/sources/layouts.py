"""The names of layouts, for `--as`; without imports, since the command line needs only these."""

LAYOUTS = {  # of --as
    "class-folders": "a folder, tar or zip whose top folders are the classes",
    "synset-folders": "folders named by synset ids are the classes, wherever they are",
    "synset-tars": "a tar or folder of tars, one for each class",
    "splits": "a folder, tar or zip with folders train and val",
    "kaggle": "the ImageNet challenge as Kaggle has it",
    "webdataset": "tars whose files with equal names are one sample",
    "parquet": "Parquet files of Hugging Face",
    "recordio": "a RecordIO file of MXNet",
    "table": "a CSV or TSV of path and class",
}
