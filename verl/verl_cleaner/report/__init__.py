"""Reading a run and showing it: `python -m verl_cleaner.report RUN [RUN …] -o report.html`.

folder        where a run's files are               dumps      broken or half-written files, read as far as they go
run           a run as the report needs it          trajectory a row of VeRL's dump joined with ours
read          its trajectories                      chat       rows of chat messages as turns and calls
chat_rows     the rows of a file of them            chat_files their trajectories
sampling      which trajectories, where too many    selection  the filters
conversation  a trajectory as turns and calls       diff       what a repair changed
panels        which metrics are shown               dashboards wandb, TensorBoard, Grafana with these panels
charts        the panels as the page draws them     summary    the policy or the repairs; differences of runs
grouping      seeds of one setting                  families   held-out accuracy by task family
intervals     means with 95 % intervals             tables     tables as text
evaluations   bare policy against rollback          about      what a run was
page          one HTML file of all that (`write`)   serve      the page of a run that goes on
share         a few trajectories as a small page    follow     whether a run has written something
"""
