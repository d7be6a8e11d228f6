"""A scored checklist of 40 points for any Helm chart."""
