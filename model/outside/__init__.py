"""What comes from outside as people, spreadsheets, desktops and shells write it: names, tables, folders, proxies."""
