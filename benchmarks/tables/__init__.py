"""Tables of results, each made by one command: `make results TABLE=world`.

    python -m benchmarks.tables NAME [--work FOLDER] [--jobs 2]

Every table is a list of jobs: a function, its settings and a seed. A finished job leaves one JSON
file in the work folder, named by a hash of its settings, so a table that was interrupted goes on
where it stopped, and tables that need the same student share it. The record that a table makes lies
in `benchmarks/results/tables/NAME.json`; `python -m benchmarks.tables.show` writes the records into
the pages that show them.

Scenes are worlds that the project makes itself (`xmodal world`): 40 to train on, 10 unseen layouts,
10 with objects that no training scene has, and 5 `dev` scenes, on which alone settings were chosen.
"""
