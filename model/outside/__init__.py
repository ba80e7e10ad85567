"""What people, spreadsheets, desktops, shells and machines decide: names, tables, folders, proxies, CPUs."""
