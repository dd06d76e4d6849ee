"""What people work with: reports, comparisons, gates and exports, on the command line and in notebooks."""
