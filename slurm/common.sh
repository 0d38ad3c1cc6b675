# What al.sbatch and bo.sbatch share. They are submitted by dal_nb_submit, which passes all arguments.

# ---- your environment: edit here, and nowhere else ------------------------------------------------
# The environment in which dal_nb_submit was started comes along (sbatch exports it), and the clone's
# .venv is used where there is one. On a cluster that wants it otherwise:
# module load python/3.11 cuda/12.4
# source ~/miniforge3/bin/activate dal_nb
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -e .venv/bin/activate ]; then . .venv/bin/activate; fi
# ---------------------------------------------------------------------------------------------------

trap '' USR1  # SLURM's warning; the task listens for it as soon as it is up
exec python -u -m dal_nb.slurm.worker "$@"  # in place of this shell: it gets the signals that SLURM sends to the batch script
