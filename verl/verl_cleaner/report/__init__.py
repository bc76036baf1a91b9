"""Reading a run and showing it: `python -m verl_cleaner.report RUN [RUN …] -o report.html`.

folder        where a run's files are               dumps      reads files that may be broken or half written
run           metrics, settings, trajectories       trajectory a row of VeRL's dump joined with ours
read          its trajectories                      chat       rows of chat messages as turns and calls
chat_rows     the rows of a file of them            chat_files their trajectories
sampling      which trajectories are shown          selection  the filters
conversation  a trajectory as turns and calls       diff       what a repair changed
panels        which metrics are shown               dashboards wandb, TensorBoard, Grafana with these panels
charts        the data of the page's charts         summary    policy and repairs apart; differences of runs
grouping      runs that differ only in the seed     families   held-out accuracy by task family
intervals     means with 95 % intervals             tables     tables as text
evaluations   policy alone against rollback         about      date, model, seed, command … of a run
page          all of it in one HTML file (`write`)  serve      the page while a run goes on
share         a small page of a few trajectories    follow     whether a run has written something
"""
