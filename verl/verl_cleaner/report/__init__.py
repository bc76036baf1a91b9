"""Reading a run and showing it: `python -m verl_cleaner.report RUN [RUN …] -o report.html`.

folder        where a run's files are               dumps      broken or half-written files, read as far as they go
run           a run as the report needs it          trajectory VeRL's dumps joined with ours
sampling      which trajectories, where too many    selection  the filters
conversation  a trajectory as turns and calls       diff       what a repair changed
charts        which metrics make which chart        summary    the policy or the repairs; differences of runs
grouping      seeds of one setting                  families   held-out accuracy by task family
intervals     means with 95 % intervals             tables     tables as text
evaluations   bare policy against rollback          about      what a run was
page          one HTML file of all that (`write`)
"""
