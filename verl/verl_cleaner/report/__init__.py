"""Reading a run and showing it: `python -m verl_cleaner.report RUN [RUN …] -o report.html`.

folder        where a run's files are               dumps      broken or half-written files, read as far as they go
run           a run as the report needs it          trajectory VeRL's dumps joined with ours
sampling      which trajectories, where too many    selection  the filters
conversation  a trajectory as turns and calls       diff       what a repair changed
charts        which metrics make which chart        page       one HTML file of all that (`write`)
"""
