"""Row sources: equally many rows of several named arrays, read in blocks, wherever they are kept.

    build.table(...)            what the user writes -> `Column`s -> sources -> `Table`
    source.Source               one storage: `reads()` opens it and fills buffers with rows
        arrays.Memory           NumPy arrays
        arrays.Blocks           whatever has ``.shape``, ``.dtype`` and ``[start:stop]``: Zarr, HDF5, the user's own
        rawfile.RawFile         memory-mapped arrays, read through their file
        parquet.Parquet         one Parquet file or a folder of them
    table.Table                 what the engines read: blocks in order, random rows, shuffled minibatches, shards

This room imports NumPy and `jensen.core` only; the packages that read formats are imported by what is given or where used.
"""
