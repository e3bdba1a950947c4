"""The loop and what stands around it: state, probe, resuming, averages, alarms obeyed, reruns."""
