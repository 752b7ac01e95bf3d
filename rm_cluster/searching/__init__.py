"""Which base model, which rule and how much regularization for Best-of-N: the search job.

    pool (`reading`, `pool`) -> trials on its development prompts (`study`, `tuning`, `trial`)
                             -> what they do on its test prompts (`judging`, `job`)

Nothing is imported here, because the actors of trials import this package and want little of it.
"""
