"""What every study is: a plan, a directory of jobs, a queue, results."""
